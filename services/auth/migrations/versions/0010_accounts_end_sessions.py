"""A customer session ends with its account, too.

Safe while the previous release still runs: it notes only what it knows, and reads subjects alone.
"""

from alembic import op

revision = "0010"
down_revision = "0009"


def allow(*kinds: str) -> None:
    op.drop_constraint(op.f("ck_revocations_revokedkind"), "revocations", type_="check")
    op.create_check_constraint(
        op.f("ck_revocations_revokedkind"),
        "revocations",
        f"kind IN ({', '.join(repr(kind) for kind in kinds)})",
    )


def upgrade() -> None:
    allow("session", "key", "membership", "account")


def downgrade() -> None:
    op.execute("DELETE FROM revocations WHERE kind = 'account'")
    allow("session", "key", "membership")
