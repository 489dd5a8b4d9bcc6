"""What was billed is taken back by name: lines know their charge and the line they take back.

An invoice counts what was taken back of it before it was paid, by later invoices, and what waits
for a dispute. The table `upcoming` is not written any more: a later release drops it.

Safe while the previous release still runs: what it adds has a default or may be null, and what
that release writes fits the new rules. Those are added without a look at the rows there are, and
looked at while others write. Each step may be repeated, so a run that was cut off is simply run
again.
"""

from alembic import op

revision = "0010"
down_revision = "0009"

COLUMNS = {
    "invoices": {
        "amount_brought": "bigint NOT NULL DEFAULT 0",
        "amount_reduced": "bigint NOT NULL DEFAULT 0",
        "amount_moved": "bigint NOT NULL DEFAULT 0",
        "amount_withheld": "bigint NOT NULL DEFAULT 0",
        "withheld": "jsonb NOT NULL DEFAULT '[]'",
        "reissued_as": "uuid",
    },
    "invoice_lines": {
        "charge_id": "uuid",
        "takes_back": "uuid",
        "takes_back_tax": "bigint",
        "unit": "text",
        "parts": "jsonb",
    },
    "pending_charges": {
        "take_backs": "jsonb NOT NULL DEFAULT '[]'",
        "give_back": "text NOT NULL DEFAULT 'credit'",
    },
    "credit_notes": {"reduction": "bigint NOT NULL DEFAULT 0"},
    "credit_note_lines": {"starts_at": "timestamptz", "why": "jsonb"},
}
OLD_REASONS = (
    "subscription_start",
    "subscription_cycle",
    "subscription_change",
    "subscription_cancel",
    "manual",
)
NEW_REASONS = (
    "subscription_start",
    "subscription_cycle",
    "subscription_change",
    "subscription_pending_change",
    "subscription_usage",
    "subscription_cancel",
    "manual",
)


def one_of(reasons: tuple[str, ...]) -> str:
    return "billing_reason IN ({})".format(", ".join(f"'{reason}'" for reason in reasons))


#: By table and name: what was asked before, and what is asked now.
CHECKS = {
    ("invoices", "billing_reason"): (one_of(OLD_REASONS), one_of(NEW_REASONS)),
    ("invoices", "amount_paid"): (
        "amount_paid BETWEEN 0 AND total - credit_applied",
        "amount_paid BETWEEN 0 AND total - credit_applied - amount_reduced",
    ),
    ("invoices", "amount_credited"): (
        "amount_credited BETWEEN 0 AND credit_applied + amount_paid",
        (
            "amount_credited >= 0 AND amount_moved >= 0 AND amount_credited + amount_moved"
            " <= credit_applied + amount_paid + amount_reduced + amount_brought"
        ),
    ),
    ("invoices", "taken_back"): (
        None,
        (
            "amount_reduced BETWEEN 0 AND amount_credited"
            " AND amount_brought >= 0 AND amount_withheld >= 0"
        ),
    ),
    ("invoices", "paid"): (
        (
            "(status = 'paid') = (paid_at IS NOT NULL)"
            " AND (status <> 'paid' OR amount_paid = total - credit_applied)"
        ),
        (
            "(status = 'paid') = (paid_at IS NOT NULL)"
            " AND (status <> 'paid' OR amount_paid = total - credit_applied - amount_reduced)"
        ),
    ),
    ("credit_notes", "settled"): (
        (
            "refund >= 0 AND credit >= 0 AND returned_before >= 0"
            " AND refund + credit + returned_before = total"
        ),
        (
            "refund >= 0 AND credit >= 0 AND returned_before >= 0 AND reduction >= 0"
            " AND refund + credit + returned_before + reduction = total"
        ),
    ),
    ("invoice_lines", "takes_back"): (None, "takes_back IS NULL OR net <= 0"),
    ("pending_charges", "give_back"): (None, "give_back IN ('credit', 'refund')"),
}
INDEXES = {
    # What later invoices took back of a line.
    "ix_invoice_lines_takes_back": "invoice_lines (takes_back) WHERE takes_back IS NOT NULL",
    # Those of which more was given back than was paid: a person has to look.
    "ix_invoices_returns_unattended": """
    invoices (id) WHERE returns_attended_at IS NULL
     AND (amount_credited - amount_reduced + amount_moved - amount_covered + amount_unnoted
          > credit_applied + amount_paid + amount_brought
          OR amount_covered > amount_unnoted)
    """,
}
OLD_INDEXES = {
    "ix_invoices_unattended_returns": """
    invoices (id) WHERE returns_attended_at IS NULL
     AND (amount_credited - amount_covered + amount_unnoted > credit_applied + amount_paid
          OR amount_covered > amount_unnoted)
    """,
}
#: What the release before has no word for: what was not owed any more counts as paid by credit,
#: and what negative lines took back as taken back by credit notes.
AS_BEFORE = (
    """
    UPDATE invoices
       SET credit_applied = credit_applied + amount_reduced,
           amount_credited = least(amount_credited + amount_moved,
                                   credit_applied + amount_reduced + amount_paid),
           amount_covered = least(amount_covered,
                                  least(amount_credited + amount_moved,
                                        credit_applied + amount_reduced + amount_paid)),
           amount_refunded = least(amount_refunded,
                                   least(amount_credited + amount_moved,
                                         credit_applied + amount_reduced + amount_paid)),
           amount_reduced = 0, amount_moved = 0, amount_brought = 0
     WHERE amount_reduced > 0 OR amount_moved > 0 OR amount_brought > 0
    """,
    "UPDATE credit_notes SET credit = credit + reduction, reduction = 0 WHERE reduction > 0",
    """
    UPDATE invoices SET billing_reason = 'subscription_change'
     WHERE billing_reason = 'subscription_pending_change'
    """,
    """
    UPDATE invoices SET billing_reason = 'subscription_cycle'
     WHERE billing_reason = 'subscription_usage'
    """,
)


def check(table: str, name: str, condition: str | None) -> None:
    """Put a rule in the place of another one, without a look at the rows there are."""
    constraint = f"ck_{table}_{name}"
    alter = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {constraint}"
    if condition is not None:
        alter += f", ADD CONSTRAINT {constraint} CHECK ({condition}) NOT VALID"
    op.execute(alter)


def look_at_rows(table: str, name: str) -> None:
    """While others read and write."""
    with op.get_context().autocommit_block():
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT ck_{table}_{name}")


def build(indexes: dict[str, str], instead_of: dict[str, str]) -> None:
    """Without keeping anybody waiting; one that was cut off is there and of no use."""
    with op.get_context().autocommit_block():
        for name, on in indexes.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {on}")
        for name in instead_of:
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        added = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {of}" for name, of in columns.items())
        op.execute(f"ALTER TABLE {table} {added}")
    for (table, name), (_, condition) in CHECKS.items():
        check(table, name, condition)
    for table, name in CHECKS:
        look_at_rows(table, name)
    build(INDEXES, instead_of=OLD_INDEXES)


def downgrade() -> None:
    build(OLD_INDEXES, instead_of=INDEXES)
    for table, name in CHECKS:
        check(table, name, None)
    for statement in AS_BEFORE:
        op.execute(statement)
    for (table, name), (condition, _) in CHECKS.items():
        check(table, name, condition)
    for (table, name), (condition, _) in CHECKS.items():
        if condition is not None:
            look_at_rows(table, name)
    for table, columns in COLUMNS.items():
        dropped = ", ".join(f"DROP COLUMN IF EXISTS {name}" for name in columns)
        op.execute(f"ALTER TABLE {table} {dropped}")
