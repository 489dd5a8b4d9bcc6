"""The way back from a migration, on tables that its release has used."""

import asyncio
from typing import Any

import asyncpg
import pytest

from shared import migrations
from shared.ids import new_id
from tests.databases import FreshDatabase

pytestmark = pytest.mark.servers

REFUND = """
INSERT INTO payments.refunds (id, account_id, payment_id, invoice_id, provider, charge, amount,
                              currency, reason, at, created_at, status, asked, version,
                              credit_note_id, attended_at)
VALUES ($1, $1, $1, $1, 'sandbox', 'ch_1', 100, 'EUR', 'credit_note', now(), now(), $2, 1, 1, $3,
        CASE WHEN $4 THEN now() END)
"""
REFUNDS = "SELECT id, credit_note_id FROM payments.refunds"


async def migrate(work: Any, url: str, *arguments: str) -> None:
    """Alembic runs a loop of its own."""
    await asyncio.to_thread(work, "payments", url, *arguments)


async def test_of_refunds_that_were_sent_again_the_last_stays_its_credit_notes(
    empty_database: FreshDatabase,
) -> None:
    url = empty_database.url("payments")
    await migrate(migrations.upgrade, url)
    again, dismissed, other = new_id(), new_id(), new_id()
    made = [
        (new_id(), "failed", again, True),
        (new_id(), "failed", again, True),
        (new_id(), "succeeded", again, False),
        (new_id(), "failed", dismissed, True),
        (new_id(), "failed", other, False),
        (new_id(), "succeeded", None, False),
    ]
    connection = await asyncpg.connect(empty_database.admin_url)
    try:
        # Refunds alone, without the payments that they were made of.
        await connection.execute("SET session_replication_role = replica")
        await connection.executemany(REFUND, made)

        await migrate(migrations.downgrade, url, "0003")
        below = {row[0]: row[1] for row in await connection.fetch(REFUNDS)}
        await migrate(migrations.upgrade, url)
        above = {row[0]: row[1] for row in await connection.fetch(REFUNDS)}
    finally:
        await connection.close()

    kept = [None, None, again, dismissed, other, None]
    assert below == above == {row[0]: note for row, note in zip(made, kept, strict=True)}
