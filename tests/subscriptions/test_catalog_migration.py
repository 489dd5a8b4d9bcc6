"""The catalog that an earlier release made and goes on using, and the way back to that release."""

import asyncio
from typing import Any

import asyncpg
import pytest

from shared import migrations
from shared.ids import new_id
from tests.databases import FreshDatabase

pytestmark = pytest.mark.servers

#: As the release before wrote them: it names every column that it knows.
PLAN = """
INSERT INTO subscriptions.plans (id, code, name, description, features, trial_days,
    trial_end_behavior, trial_requires_payment_method, dunning, status, version, created_at)
VALUES ($1, $1::uuid::text, 'Team', '', '[]', 0, 'cancel', false,
    '{"days": [1], "then": "cancel"}', 'published', 1, now())
"""
METER = """
INSERT INTO subscriptions.meters (id, code, name, grace_hours, created_at)
VALUES ($1, $1::uuid::text, 'Calls', 72, now())
"""
PRICE = """
INSERT INTO subscriptions.prices (id, plan_id, currency, type, interval_unit, interval_count,
    unit_amount, tiers, free_units, meter_id, aggregation, tax_behavior, tax_category, version,
    active, amount, created_at)
VALUES ($1, $2, 'EUR', 'metered', 'month', 1, 2, '[]', 0, $3, 'sum', 'exclusive', 'standard', 1,
    true, 2, now())
"""
COUPON = """
INSERT INTO subscriptions.coupons (id, code, name, percent, duration, plan_ids, max_per_account,
    redeemed, active, created_at)
VALUES ($1, $1::uuid::text, 'Spring', 10, 'once', '{}', 1, 0, true, now())
"""
LOOK = """
SELECT p.self_service, p.revision, q.component, q.revision, m.unit, m.active, m.revision
  FROM subscriptions.prices q
  JOIN subscriptions.plans p ON p.id = q.plan_id
  JOIN subscriptions.meters m ON m.id = q.meter_id
"""


async def migrate(work: Any, url: str, *arguments: str) -> None:
    """Alembic runs a loop of its own."""
    await asyncio.to_thread(work, "subscriptions", url, *arguments)


async def test_a_catalog_of_the_release_before_goes_on_and_back(
    empty_database: FreshDatabase,
) -> None:
    url = empty_database.url("subscriptions")
    await migrate(migrations.upgrade, url, "0008")
    before, beside = new_id(), new_id()
    connection = await asyncpg.connect(empty_database.admin_url)
    try:
        await make(connection, before)
        await migrate(migrations.upgrade, url, "0009")
        # It runs on while this one starts.
        await make(connection, beside)
        for row in await connection.fetch(LOOK):
            assert tuple(row) == (None, 1, False, 1, "", True, 1)
        coupons = await connection.fetch("SELECT price_ids, revision FROM subscriptions.coupons")
        assert [tuple(row) for row in coupons] == [([], 1)] * 2

        await connection.execute(
            "UPDATE subscriptions.prices SET component = true WHERE id = $1", beside
        )
        await migrate(migrations.downgrade, url, "0008")
        on_sale = await connection.fetch("SELECT id FROM subscriptions.prices WHERE active")
        await migrate(migrations.upgrade, url, "0009")
    finally:
        await connection.close()
    # The release before would sell by itself what is to come with another price.
    assert [row["id"] for row in on_sale] == [before]


async def make(connection: Any, id_: Any) -> None:
    """A plan, its metered price, the meter and a coupon, all by one id."""
    for statement in (PLAN, METER, COUPON):
        await connection.execute(statement, id_)
    await connection.execute(PRICE, id_, id_, id_)
