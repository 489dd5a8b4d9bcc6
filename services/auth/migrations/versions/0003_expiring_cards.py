"""A mail before the card that is charged expires.

Safe while the previous release still runs: it only widens what the table accepts.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

BEFORE = (
    "verify_email",
    "reset_password",
    "password_changed",
    "second_factor_changed",
    "change_email",
    "address_changed",
    "invitation",
    "invoice_paid",
    "payment_failed",
    "payment_action_required",
    "card_needed",
    "dunning_exhausted",
    "trial_will_end",
    "subscription_canceled",
    "credit_note_issued",
)


def allow_templates(*templates: str) -> None:
    op.drop_constraint(op.f("ck_mails_template"), "mails", type_="check")
    op.create_check_constraint(
        op.f("ck_mails_template"),
        "mails",
        f"template IN ({', '.join(repr(name) for name in templates)})",
    )


def upgrade() -> None:
    at = BEFORE.index("card_needed") + 1
    allow_templates(*BEFORE[:at], "card_expires", *BEFORE[at:])


def downgrade() -> None:
    op.execute("DELETE FROM mails WHERE template = 'card_expires'")
    allow_templates(*BEFORE)
