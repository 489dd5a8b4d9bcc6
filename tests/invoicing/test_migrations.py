"""The way back from take-backs, on rows that say what the release before has no word for."""

import asyncio
from typing import Any

import asyncpg
import pytest

from shared import migrations
from shared.ids import new_id
from tests.databases import FreshDatabase

pytestmark = pytest.mark.servers

INVOICE = """
INSERT INTO invoicing.invoices (
    id, account_id, legal_entity_id, billing_reason, currency, series, status, number, subtotal,
    discount, net, tax, taxes, total, credit_applied, amount_paid, amount_brought, amount_credited,
    amount_reduced, amount_moved, amount_refunded, bill_to, seller, basis, supplied_at, issued_at,
    due_at, paid_at, collect_automatically, dunning, search_text, created_at, version)
VALUES ($1, $1, $11, $2, 'EUR', 'invoice', $3::text, $4, 100, 0, 100, 0, '[]', 100, $5, $6, $7,
        $8, $9, $10, 0, '{}', '{}', '[]', now(), now(), now(),
        CASE WHEN $3::text = 'paid' THEN now() END, true, '{}', '', now(), 1)
"""
ENTITY = """
INSERT INTO invoicing.legal_entities (
    id, name, country, address, accounting_currency, small_business, payment_terms_days,
    draft_hours, reminder_days, is_default, branding, created_at, version)
VALUES ($1, 'One', 'DE', '{}', 'EUR', false, 0, 0, '{}', true, '{}', now(), 1)
"""
NOTE = """
INSERT INTO invoicing.credit_notes (
    id, account_id, invoice_id, legal_entity_id, number, invoice_number, currency, reason, settle,
    net, tax, taxes, total, refund, credit, reduction, bill_to, seller, issued_at, version)
VALUES ($1, $1, $1, $1, 'CN-1', 'INV-1', 'EUR', 'x', 'credit', 60, 0, '[]', 60, 0, 20, 40, '{}',
        '{}', now(), 1)
"""
AMOUNTS = "SELECT number, billing_reason, credit_applied, amount_paid, amount_credited"


async def migrate(work: Any, url: str, *arguments: str) -> None:
    """Alembic runs a loop of its own."""
    await asyncio.to_thread(work, "invoicing", url, *arguments)


async def test_what_was_reduced_counts_as_paid_by_credit_below(
    empty_database: FreshDatabase,
) -> None:
    url = empty_database.url("invoicing")
    await migrate(migrations.upgrade, url)
    # Reason, status, number; credit, paid, brought; credited, reduced, moved.
    made = [
        ("subscription_cycle", "paid", "reduced", 0, 60, 0, 60, 40, 0),
        ("subscription_usage", "paid", "moved", 0, 100, 0, 0, 0, 50),
        ("subscription_pending_change", "paid", "brought", 10, 90, 20, 120, 0, 0),
        ("manual", "open", "plain", 10, 0, 0, 0, 0, 0),
    ]
    connection = await asyncpg.connect(empty_database.admin_url)
    try:
        entity = new_id()
        await connection.execute(ENTITY, entity)
        # The credit note alone is of no invoice.
        await connection.execute("SET session_replication_role = replica")
        for reason, status, number, *amounts in made:
            await connection.execute(INVOICE, new_id(), reason, status, number, *amounts, entity)
        await connection.execute(NOTE, new_id())

        await migrate(migrations.downgrade, url, "0009")
        rows = await connection.fetch(f"{AMOUNTS} FROM invoicing.invoices")
        below = {row[0]: tuple(row)[1:] for row in rows}
        note = await connection.fetchrow("SELECT credit, total FROM invoicing.credit_notes")
        await migrate(migrations.upgrade, url)
        columns = await connection.fetchrow(
            "SELECT amount_reduced, withheld FROM invoicing.invoices WHERE number = 'reduced'"
        )
    finally:
        await connection.close()

    assert below == {
        "reduced": ("subscription_cycle", 40, 60, 60),
        "moved": ("subscription_cycle", 0, 100, 50),
        "brought": ("subscription_change", 10, 90, 100),
        "plain": ("manual", 10, 0, 0),
    }
    assert note is not None
    assert tuple(note) == (60, 60)
    assert columns is not None
    assert tuple(columns) == (0, "[]")
