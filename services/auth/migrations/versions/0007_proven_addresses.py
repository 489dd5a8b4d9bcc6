"""A sign-up is no user until its address is proven; mailed tokens say which address they prove.

Safe while the previous release still runs: it makes users that are still to be verified, as
before, and its tokens leave the new column empty. It refuses a token of this release that confirms
a sign-up, so that link has to be followed again once it is gone; and its worker stumbles over the
new kinds of mail, which wait for this release's.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

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
    "card_expires",
    "dunning_exhausted",
    "trial_will_end",
    "subscription_canceled",
    "credit_note_issued",
)
NEW = ("sign_up", "account_exists")


def allow_templates(*templates: str) -> None:
    op.drop_constraint(op.f("ck_mails_template"), "mails", type_="check")
    op.create_check_constraint(
        op.f("ck_mails_template"),
        "mails",
        f"template IN ({', '.join(repr(name) for name in templates)})",
    )


def moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def upgrade() -> None:
    op.create_table(
        "registrations",
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("account_id", sa.Uuid, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("address_key", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("full_name", sa.Text),
        sa.Column("account_name", sa.Text),
        sa.Column("country", sa.Text, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        moment("created_at"),
        moment("expires_at"),
        sa.PrimaryKeyConstraint("id", name="pk_registrations"),
    )
    op.create_index("ix_registrations_address_key", "registrations", ["address_key", "id"])
    op.create_index("ix_registrations_expires_at", "registrations", ["expires_at"])
    op.create_table(
        "known_devices",
        sa.Column("user_id", sa.Uuid, nullable=False),
        sa.Column("device_hash", sa.LargeBinary, nullable=False),
        moment("created_at"),
        moment("last_used_at"),
        sa.PrimaryKeyConstraint("user_id", "device_hash", name="pk_known_devices"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_known_devices_user_id"),
        sa.CheckConstraint("octet_length(device_hash) = 32", name=op.f("ck_known_devices_hash")),
    )
    op.create_index("ix_known_devices_last_used_at", "known_devices", ["last_used_at"])
    op.add_column("mailed_tokens", sa.Column("address_key", sa.Text))
    op.alter_column("mailed_tokens", "user_id", nullable=True)
    op.create_check_constraint(
        op.f("ck_mailed_tokens_proves"),
        "mailed_tokens",
        "user_id IS NOT NULL OR address_key IS NOT NULL",
    )
    op.create_index(
        "ix_mailed_tokens_address_key",
        "mailed_tokens",
        ["address_key"],
        postgresql_where=sa.text("user_id IS NULL"),
    )
    allow_templates(BEFORE[0], *NEW, *BEFORE[1:])


def downgrade() -> None:
    op.execute("DELETE FROM mails WHERE template IN ('sign_up', 'account_exists')")
    allow_templates(*BEFORE)
    op.execute("DELETE FROM mailed_tokens WHERE user_id IS NULL")
    op.drop_index("ix_mailed_tokens_address_key", "mailed_tokens")
    op.drop_constraint(op.f("ck_mailed_tokens_proves"), "mailed_tokens", type_="check")
    op.alter_column("mailed_tokens", "user_id", nullable=False)
    op.drop_column("mailed_tokens", "address_key")
    op.drop_table("known_devices")
    op.drop_table("registrations")
