"""What was ended before its time, and why a key ended.

Safe while the previous release still runs: it writes neither, so what it ends is known elsewhere
only when the tokens expire, as before. Keys whose maker may not have made them today end here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

#: A key of somebody who is gone, kept out, or neither in the account nor an admin of the staff.
END_ORPHANS = """
UPDATE api_keys AS key
   SET revoked_at = now(),
       revoked_because = CASE maker.status
           WHEN 'erased' THEN 'maker-erased'
           WHEN 'suspended' THEN 'maker-suspended'
           ELSE 'maker-left' END
  FROM users AS maker
 WHERE maker.id = key.created_by
   AND key.revoked_at IS NULL
   AND (maker.status <> 'active'
        OR (maker.staff_role IS DISTINCT FROM 'admin'
            AND NOT EXISTS (SELECT FROM memberships AS place
                             WHERE place.account_id = key.account_id
                               AND place.user_id = key.created_by)))
"""


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("position", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("subject", sa.Uuid, nullable=False),
        sa.Column("below", sa.Integer, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_revocations")),
        sa.CheckConstraint(
            "kind IN ('session', 'key', 'membership')", name=op.f("ck_revocations_revokedkind")
        ),
        sa.CheckConstraint("below > 0", name=op.f("ck_revocations_below")),
    )
    op.add_column("api_keys", sa.Column("revoked_because", sa.String(40)))
    op.create_check_constraint(
        op.f("ck_api_keys_keyend"),
        "api_keys",
        "revoked_because IN ('revoked', 'maker-left', 'maker-erased', 'maker-suspended', "
        "'maker-lost-role', 'account-closed')",
    )
    op.execute("UPDATE api_keys SET revoked_because = 'revoked' WHERE revoked_at IS NOT NULL")
    op.execute(END_ORPHANS)
    # The keys that somebody made: they end with their maker.
    op.create_index(op.f("ix_api_keys_created_by"), "api_keys", ["created_by"])


def downgrade() -> None:
    op.drop_index(op.f("ix_api_keys_created_by"), "api_keys")
    op.drop_column("api_keys", "revoked_because")
    op.drop_table("revocations")
