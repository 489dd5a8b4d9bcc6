"""Secret keys of the operator, and the secrets of each.

Safe while the previous release still runs: it knows nothing of the new tables, refuses these keys,
and takes their tokens for those of nobody.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "operator_keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("networks", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.CheckConstraint("version >= 1", name=op.f("ck_operator_keys_version")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operator_keys")),
    )
    op.create_table(
        "operator_secrets",
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True)),
        sa.Column("last_used_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("octet_length(key_hash) = 32", name=op.f("ck_operator_secrets_hash")),
        sa.ForeignKeyConstraint(
            ["key_id"], ["operator_keys.id"], name=op.f("fk_operator_secrets_key_id")
        ),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_operator_secrets")),
    )
    op.create_index(op.f("ix_operator_secrets_key_id"), "operator_secrets", ["key_id"])


def downgrade() -> None:
    op.drop_table("operator_secrets")
    op.drop_table("operator_keys")
