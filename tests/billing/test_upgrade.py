"""What the release before left behind, taken up by this one: nothing is lost and nothing is minted.

`release_before.sql` is what commit 76053a7 wrote: its four services ran together on an empty
database, with test clocks from 1 April 2026 on, and an account for each thing that may have been
billed or may wait. Kept of the dump are the tables that say something (`pg_dump --data-only
--column-inserts`); of the timeline, what subscriptions reported. Here it is loaded at that
release's revisions, migrated, taken back, migrated again, and lived on with over HTTP.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
import pytest

from infra.postgres import provision
from services.subscriptions.schedule import plan_what_was_left
from shared import migrations
from shared.clock import utc_now
from shared.events.subscriptions import (
    Charge,
    SubscriptionCancellationWithdrawn,
    SubscriptionRenewed,
)
from shared.ids import new_id
from shared.schedule import Due
from tests.billing.previewed import Json, Life, Services, total
from tests.databases import FreshDatabase, fresh_database
from tests.harness import Deployment
from tests.servers import Servers
from tests.subscriptions.conftest import Client, Shop, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

ROWS = Path(__file__).with_name("release_before.sql")
HEADS = {"auth": "0003", "subscriptions": "0006", "invoicing": "0008", "payments": "0004"}
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
#: The tables that have rows, and what of them the release before knows.
COLUMNS = """
SELECT table_schema, table_name, array_agg(quote_ident(column_name) ORDER BY ordinal_position)
  FROM information_schema.columns
 WHERE table_schema = ANY($1) AND table_name <> 'alembic_version'
   AND (table_schema, table_name) IN (SELECT * FROM unnest($1::text[], $2::text[]))
 GROUP BY table_schema, table_name
"""

Columns = dict[tuple[str, str], list[str]]


def days(number: float) -> datetime:
    return APRIL + timedelta(days=number)


# ---- the way up, down and up again --------------------------------------------------------------


@dataclass(frozen=True)
class Upgraded:
    """The rows as they were, and after the way up and down; then they are in the deployment."""

    before: dict[str, list[Any]]
    after: dict[str, list[Any]]


async def migrate(work: Any, database: FreshDatabase, revisions: dict[str, str]) -> None:
    """Alembic runs a loop of its own."""
    for service, revision in revisions.items():
        await asyncio.to_thread(work, service, database.url(service), revision)


async def filled(connection: Any) -> Columns:
    """The tables that the release before left rows in, with their columns."""
    statements = [line for line in ROWS.read_text().splitlines() if line.startswith("INSERT INTO ")]
    names = [line.split()[2].split(".") for line in statements]
    rows = await connection.fetch(COLUMNS, [name[0] for name in names], [name[1] for name in names])
    return {(row[0], row[1]): row[2] for row in rows}


async def contents(connection: Any, tables: Columns) -> dict[str, list[Any]]:
    return {
        f"{schema}.{table}": [
            tuple(row)
            for row in await connection.fetch(
                f"SELECT {', '.join(columns)} FROM {schema}.{table} ORDER BY 1, 2"  # noqa: S608
            )
        ]
        for (schema, table), columns in tables.items()
    }


async def moved(source: Any, target: Any, tables: Columns) -> None:
    """Copy the rows to where the services run that all tests here share."""
    await target.execute("SET session_replication_role = replica")
    for (schema, table), columns in tables.items():
        names, rows = [column.strip('"') for column in columns], io.BytesIO()
        await source.copy_from_table(table, schema_name=schema, columns=names, output=rows)
        rows.seek(0)
        await target.copy_to_table(table, schema_name=schema, columns=names, source=rows)


@pytest.fixture(scope="module")
async def upgraded(servers: Servers, deployment: Deployment) -> Upgraded:
    async with fresh_database(servers.postgres_admin_url) as database:
        await migrate(migrations.upgrade, database, HEADS)
        source = await asyncpg.connect(database.admin_url)
        name = deployment.database_urls["subscriptions"].rpartition("/")[2]
        target = await asyncpg.connect(provision.with_database(servers.postgres_admin_url, name))
        try:
            await source.execute("SET session_replication_role = replica")
            await source.execute(ROWS.read_text())
            tables = await filled(source)
            before = await contents(source, tables)
            await migrate(migrations.upgrade, database, dict.fromkeys(HEADS, "head"))
            await migrate(migrations.downgrade, database, HEADS)
            after = await contents(source, tables)
            await migrate(migrations.upgrade, database, dict.fromkeys(HEADS, "head"))
            # The deployment has a legal entity that is the usual one.
            await source.execute(
                "UPDATE invoicing.accounts SET legal_entity_id = e.id"
                "  FROM invoicing.legal_entities e WHERE e.is_default AND legal_entity_id IS NULL"
            )
            await source.execute("UPDATE invoicing.legal_entities SET is_default = false")
            await moved(source, target, await filled(source))
        finally:
            await source.close()
            await target.close()
    return Upgraded(before, after)


@pytest.fixture
async def database(servers: Servers, deployment: Deployment) -> AsyncIterator[Any]:
    """The deployment's database, as its superuser."""
    name = deployment.database_urls["subscriptions"].rpartition("/")[2]
    connection = await asyncpg.connect(provision.with_database(servers.postgres_admin_url, name))
    try:
        yield connection
    finally:
        await connection.close()


async def test_the_way_down_loses_nothing_of_what_the_release_before_wrote(
    upgraded: Upgraded,
) -> None:
    assert upgraded.before == upgraded.after


# ---- one account of the release before ----------------------------------------------------------


@dataclass
class Account(Life):
    """An account that the release before filled, with its subscriptions, oldest first."""

    paths: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return self.paths[0]

    @property
    def subscription_id(self) -> UUID:
        return UUID(self.path.rpartition("/")[2])

    async def status(self) -> str:
        return str((await self.subscriptions.get(self.path))["status"])

    async def does_now(self, act: str, **body: Any) -> None:
        await self.subscriptions.post(f"{self.path}/{act}", **body)
        await self.settle()

    async def cancel(self) -> None:
        await self.does_now("cancel", at_period_end=False, credit=True)

    async def invoices(self) -> list[Json]:
        """Oldest first."""
        found: list[Json] = (await self.invoicing.get("/v1/invoices", limit=100))["data"]
        return found[::-1]

    async def totals(self) -> list[int]:
        return [total(invoice) for invoice in await self.invoices()]

    async def credit(self) -> int:
        balances = (await self.invoicing.get("/v1/account-credit"))["balances"]
        held: int = sum(one["amount"] for one in balances)
        return held

    async def kept(self) -> int:
        """What was billed and not taken back."""
        notes = (await self.invoicing.get("/v1/credit-notes", limit=100))["data"]
        taken_back: int = sum(note["total"]["amount"] for note in notes)
        return sum(await self.totals()) - taken_back


class Accounts:
    """The accounts of the release before by what they are about."""

    def __init__(self, services: Services, database: Any) -> None:
        self._services = services
        self._database = database

    async def __call__(self, about: str) -> Account:
        account_id = uuid5(NAMESPACE_URL, f"release-before/{about}")
        clock = await self._database.fetchrow(
            "SELECT id, now FROM subscriptions.test_clocks WHERE account_id = $1", account_id
        )
        held = await self._database.fetch(
            "SELECT id FROM subscriptions.subscriptions WHERE account_id = $1 ORDER BY id",
            account_id,
        )
        paths = tuple(f"/v1/subscriptions/{row['id']}" for row in held)
        return Account(self._services, account_id, str(clock["id"]), clock["now"], paths=paths)

    async def price(self, plan: str) -> str:
        """A plan's price, or an add-on's."""
        found = await self._database.fetchval(
            "SELECT q.id FROM subscriptions.prices q LEFT JOIN subscriptions.plans p"
            " ON p.id = q.plan_id LEFT JOIN subscriptions.addons a ON a.id = q.addon_id"
            " WHERE coalesce(p.code, a.code) = $1",
            plan,
        )
        return str(found)


@pytest.fixture
def accounts(upgraded: Upgraded, services: Services, database: Any) -> Accounts:
    del upgraded
    return Accounts(services, database)


# ---- what it billed -----------------------------------------------------------------------------


async def test_the_unused_rest_comes_back_with_its_tax(accounts: Accounts) -> None:
    life = await accounts("taxed")
    assert await life.totals() == [1190]

    await life.cancel()

    assert await life.credit() == 794  # two thirds of 10.00, and 19 %


async def test_fewer_units_take_the_old_ones_back_once(accounts: Accounts) -> None:
    life = await accounts("team")
    await life.pay_with("tok_ok")
    await life.does_now("change", quantity=1, proration="prorate_now")
    assert await life.kept() == 6500 - 4000 + 1333

    await life.advance(days(20))
    await life.cancel()

    assert abs(await life.kept() - 3000) <= 1


async def test_a_coupon_for_one_plan_stays_with_it(accounts: Accounts) -> None:
    life = await accounts("half")
    await life.pay_with("tok_ok")
    await life.does_now("change", price_id=await accounts.price("dear"), proration="prorate_now")
    assert await life.kept() == 500 - 333 + 2000

    await life.advance(days(31))

    assert (await life.totals())[-1] == 3000


async def test_what_a_fixed_coupon_took_off_is_not_given_back(accounts: Accounts) -> None:
    life = await accounts("nine")

    await life.cancel()

    assert await life.credit() == 67


async def test_what_credit_paid_comes_back_as_credit(accounts: Accounts) -> None:
    life = await accounts("in-credit")

    await life.cancel()

    assert await life.credit() == 667


async def test_a_credit_note_counts_toward_what_comes_back(accounts: Accounts) -> None:
    life = await accounts("noted")

    await life.cancel()

    assert await life.credit() == 2000


async def test_what_was_dropped_for_nothing_stays_in_its_place(accounts: Accounts) -> None:
    """An add-on that was billed and is held no more, without proration."""
    life = await accounts("let-be")
    await life.pay_with("tok_ok")
    await life.does_now("change", quantity=2, proration="prorate_now")
    assert await life.kept() == 2500 - 1333 + 2667

    await life.cancel()

    assert abs(await life.kept() - 834) <= 1  # a third of 25.00


# It gave the rest of the old price back on the invoice of the change, and said of no line.


async def test_what_a_dearer_price_charged_comes_back_as_previewed(accounts: Accounts) -> None:
    life = await accounts("upgraded")
    assert await life.totals() == [1000, 1500 - 500]

    await life.does(life.path, "cancel", at_period_end=False, credit=True)

    assert await life.credit() == 1400  # 14 of 15 days


async def test_what_a_cheaper_price_charged_comes_back_and_nothing_twice(
    accounts: Accounts,
) -> None:
    life = await accounts("downgraded")
    assert await life.totals() == [3000, 0]
    assert await life.credit() == 1500 - 500

    await life.cancel()

    assert await life.credit() == 1000 + 467


async def test_what_a_year_charged_comes_back(accounts: Accounts) -> None:
    life = await accounts("to-the-year")
    assert await life.totals() == [1000, 10_000 - 500]

    await life.cancel()

    assert await life.credit() == 9973  # 364 of 365 days


# ---- what waits ---------------------------------------------------------------------------------


async def test_a_change_that_waits_happens_when_the_period_ends(accounts: Accounts) -> None:
    life = await accounts("waiting")

    await life.advance(days(31))

    assert await life.totals() == [6500, 1000]


async def test_a_cancellation_at_the_end_of_the_period_happens(accounts: Accounts) -> None:
    life = await accounts("leaving")

    await life.advance(days(31))

    held = await life.subscriptions.get(life.path)
    assert (held["status"], held["cancel_reason"]) == ("canceled", "Too dear")
    assert (await life.totals(), await life.credit()) == ([1000], 0)


async def test_a_cancellation_at_a_date_gives_the_rest_back(accounts: Accounts) -> None:
    life = await accounts("dated")

    await life.advance(days(21))

    assert await life.status() == "canceled"
    assert await life.credit() == 1000


async def test_a_pause_begins_and_ends_at_its_instants(accounts: Accounts) -> None:
    life = await accounts("resting")
    await life.pay_with("tok_ok")
    await life.advance(days(31))
    assert await life.status() == "paused"

    await life.advance(days(46))

    assert await life.status() == "active"
    assert await life.totals() == [1000, 1000]


async def test_what_waits_for_the_next_invoice_is_on_it(accounts: Accounts) -> None:
    life = await accounts("next")

    await life.advance(days(31))

    assert await life.totals() == [1000, 3000 + 1500 - 500]


async def test_a_yearly_price_behind_a_trial_is_billed_once_a_year(accounts: Accounts) -> None:
    life = await accounts("trial")

    await life.advance(days(80))

    assert await life.totals() == [10_000]


async def test_a_one_off_chosen_with_a_trial_is_billed_when_it_ends(accounts: Accounts) -> None:
    life = await accounts("trial-once")
    await life.pay_with("tok_ok")

    await life.advance(days(60))

    assert await life.totals() == [1000 + 2 * 700, 1000]


async def test_a_cancellation_waits_through_a_debt(accounts: Accounts) -> None:
    life = await accounts("unpaid")
    assert await life.status() == "unpaid"

    await life.advance(days(62))

    assert await life.status() == "canceled"
    assert await life.totals() == [1000, 1000]


# ---- usage, debts and drafts --------------------------------------------------------------------


async def use(life: Account, value: int, at: datetime) -> None:
    await life.subscriptions.post(
        "/v1/usage-events",
        id=str(new_id()),
        meter="calls",
        value=value,
        subscription_id=str(life.subscription_id),
        at=at.isoformat(),
    )


async def test_late_usage_of_a_window_is_billed_as_the_difference_with_its_coupon(
    accounts: Accounts,
) -> None:
    life = await accounts("metered-half")
    assert await life.totals() == [600]
    await use(life, 10, days(9.7))

    await life.advance(days(62))

    assert await life.totals() == [600, 50]


async def test_usage_that_was_billed_and_is_void_comes_back(accounts: Accounts) -> None:
    life = await accounts("metered")
    assert await life.totals() == [1200]
    answer = await life.subscriptions.ask("DELETE", "/v1/usage-events/metered-2")
    assert answer.is_success, answer.text

    await life.advance(days(62))

    assert await life.kept() == 1000


async def test_an_open_invoice_is_reduced_to_what_was_used(accounts: Accounts) -> None:
    life = await accounts("debtor")

    await life.cancel()

    invoice = (await life.invoices())[-1]
    assert (invoice["status"], await life.credit()) == ("open", 0)
    assert invoice["amount_remaining"]["amount"] == 24  # a quarter of a day of 31
    payment = (await life.payments.get("/v1/payments"))["data"][0]
    assert payment["amount"]["amount"] == 24
    await life.pay_with("tok_ok")
    await life.advance(life.now + timedelta(days=1, hours=1))
    assert (await life.invoices())[-1]["status"] == "paid"


async def test_what_is_taken_back_of_a_draft_is_not_billed(accounts: Accounts) -> None:
    life = await accounts("drafted")
    assert [invoice["status"] for invoice in await life.invoices()] == ["paid", "draft"]

    await life.cancel()
    await life.advance(days(42))

    assert (await life.totals(), await life.credit()) == ([3000, 97], 0)


async def test_of_a_draft_for_several_only_its_own_part_is_taken_back(accounts: Accounts) -> None:
    life = await accounts("gathered")
    assert (await life.invoices())[-1]["status"] == "draft"

    await life.cancel()
    await life.advance(days(42))

    assert ((await life.totals())[-1], await life.credit()) == (1097, 0)


# ---- while both releases run --------------------------------------------------------------------

Begin = Callable[..., Awaitable[Life]]


async def row_of(database: Any, path: str) -> Any:
    return await database.fetchrow(
        "SELECT * FROM subscriptions.subscriptions WHERE id = $1", path.rpartition("/")[2]
    )


@pytest.mark.long
async def test_a_renewal_by_the_release_before_is_known_before_the_timeline_has_it(
    begin: Begin, services: Services, shop: Shop, database: Any
) -> None:
    life = await begin(at=APRIL)
    await life.bill_to(address={"country": "DE"}, exemption_reason="Tried without tax")
    price = await shop.price(unit_amount=3000)
    path = await life.subscribe(price)
    row = await row_of(database, path)
    start, end = row["period_end"], datetime(2026, 5, 31, tzinfo=UTC)
    charge = Charge(
        id=new_id(),
        kind="recurring",
        description="Team",
        unit_amount="3000",
        amount=3000,
        currency="EUR",
        period_start=start,
        period_end=end,
        price_id=row["price_id"],
        why={"quantity": "1"},
    )
    renewed = SubscriptionRenewed(
        occurred_at=start,
        account_id=life.account_id,
        sequence=row["version"] + 1,
        subscription_id=row["id"],
        currency="EUR",
        plan_name="Team",
        price_id=row["price_id"],
        period_start=start,
        period_end=end,
        charges=(charge,),
    )
    async with services.subscriptions.runtime.begin() as uow:
        uow.emit(renewed)
    await database.execute(
        "UPDATE subscriptions.subscriptions SET version = version + 1, period_index = 2,"
        " period_start = $2, basis_start = $2, period_end = $3, due_at = $3 WHERE id = $1",
        *(row["id"], start, end),
    )

    async def told() -> bool:
        done = await database.execute(
            "DELETE FROM subscriptions.timeline WHERE event_id = $1", renewed.id
        )
        return bool(done == "DELETE 1")

    await until(told)
    await life.advance(start + (end - start) / 3)
    await life.subscriptions.post(f"{path}/cancel", at_period_end=False, credit=True)
    await life.settle()

    balances = (await life.invoicing.get("/v1/account-credit"))["balances"]
    assert [one["amount"] for one in balances] == [2000]


@pytest.mark.long
async def test_what_waits_goes_on_waiting_where_the_release_before_wrote_something_else(
    begin: Begin, shop: Shop, database: Any
) -> None:
    """It knows no change at a date: its words for that are those for the period's end."""
    life = await begin(at=APRIL)
    path = await life.subscribe(await shop.price(unit_amount=1000))
    dear = await shop.price(unit_amount=3000)
    await life.subscriptions.post(
        f"{path}/change", price_id=dear["id"], effective_at=days(10).isoformat()
    )
    await life.settle()
    row = await row_of(database, path)
    await database.execute(
        "UPDATE subscriptions.subscriptions SET version = version + 1, due_at = period_end,"
        " cancel_at_period_end = false WHERE id = $1",
        row["id"],
    )

    held = await life.subscriptions.post(f"{path}/pause")
    await life.advance(days(11))

    assert held["pause"]["at_period_end"]
    assert (await life.subscriptions.get(path))["price_id"] == dear["id"]


@pytest.mark.long
async def test_what_the_release_before_had_wait_happens(
    begin: Begin, shop: Shop, database: Any
) -> None:
    life = await begin(at=APRIL)
    path = await life.subscribe(await shop.price(unit_amount=1000))
    row = await row_of(database, path)
    await database.execute(
        "UPDATE subscriptions.subscriptions SET version = version + 1,"
        " cancel_at_period_end = true, cancel_reason = 'Enough' WHERE id = $1",
        row["id"],
    )

    await life.advance(days(31))

    held = await life.subscriptions.get(path)
    assert (held["status"], held["cancel_reason"]) == ("canceled", "Enough")


async def written_by_the_release_before(
    services: Services, database: Any, path: str, **columns: Any
) -> None:
    """A write of its own, which knows nothing of what this release keeps, and its event."""
    row = await row_of(database, path)
    told = SubscriptionCancellationWithdrawn(
        occurred_at=row["updated_at"],
        account_id=row["account_id"],
        sequence=row["version"] + 1,
        subscription_id=row["id"],
    )
    async with services.subscriptions.runtime.begin() as uow:
        uow.emit(told)
    named = ["version = version + 1", *(f"{name} = ${i}" for i, name in enumerate(columns, 2))]
    await database.execute(
        f"UPDATE subscriptions.subscriptions SET {', '.join(named)} WHERE id = $1",  # noqa: S608
        row["id"],
        *columns.values(),
    )


async def exempt(begin: Begin) -> Life:
    life = await begin(at=APRIL)
    await life.bill_to(address={"country": "DE"}, exemption_reason="Tried without tax")
    return life


async def credit_of(life: Life) -> int:
    balances = (await life.invoicing.get("/v1/account-credit"))["balances"]
    return sum(int(one["amount"]) for one in balances)


@pytest.mark.long
async def test_what_waited_for_its_payment_and_counts_is_known_after_the_release_before_wrote(
    begin: Begin, services: Services, shop: Shop, database: Any
) -> None:
    life = await exempt(begin)
    path = await life.subscribe(await shop.price(unit_amount=1000))
    dear = await shop.price(unit_amount=3000)
    await life.advance(days(16))
    await life.subscriptions.post(
        f"{path}/change", price_id=dear["id"], payment_behavior="pending_if_unpaid"
    )
    await life.settle()
    assert (await life.subscriptions.get(path))["price_id"] == dear["id"]
    await written_by_the_release_before(services, database, path)

    await life.subscriptions.post(f"{path}/cancel", at_period_end=False, credit=True)
    await life.settle()

    assert abs(await credit_of(life) - 1400) <= 1


@pytest.mark.long
@pytest.mark.parametrize("lapses", [True, False])
async def test_what_still_waits_for_its_payment_or_lapsed_was_never_billed(
    begin: Begin, services: Services, shop: Shop, database: Any, *, lapses: bool
) -> None:
    life = await exempt(begin)
    path = await life.subscribe(await shop.price(unit_amount=1000))
    dear = await shop.price(unit_amount=3000)
    await life.advance(days(16))
    await life.pay_with("tok_insufficient_funds")
    await life.subscriptions.post(
        f"{path}/change", price_id=dear["id"], payment_behavior="pending_if_unpaid"
    )
    await life.settle()
    if lapses:
        await life.advance(days(17.5))
    await written_by_the_release_before(services, database, path)

    await life.subscriptions.post(f"{path}/cancel", at_period_end=False, credit=True)
    await life.settle()

    assert abs(await credit_of(life) - (417 if lapses else 467)) <= 1


@pytest.mark.long
async def test_a_cancellation_happens_although_the_release_before_had_it_unpaid(
    begin: Begin, services: Services, shop: Shop, database: Any
) -> None:
    """It forgot that an end waits for what is not paid for."""
    life = await exempt(begin)
    path = await life.subscribe(await shop.price(unit_amount=1000))
    await life.subscriptions.post(f"{path}/cancel")
    await life.settle()
    await written_by_the_release_before(services, database, path, status="unpaid", due_at=None)

    runtime = services.subscriptions.runtime
    assert await plan_what_was_left(runtime, Due(utc_now(), runtime.database.platform)) >= 1
    await life.advance(days(31))

    assert (await life.subscriptions.get(path))["status"] == "canceled"


@pytest.mark.long
async def test_a_window_of_the_release_before_is_corrected_twice(
    begin: Begin, shop: Shop, staff: Client, database: Any
) -> None:
    """Down, and down again: each time to what was used."""
    life = await exempt(begin)
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls", grace_hours=240)
    price = await shop.price(
        type="metered", unit_amount=10, meter_id=meter["id"], aggregation="sum", interval="day"
    )
    path = await life.subscribe(price)
    about = path.rpartition("/")[2]
    await life.advance(days(0.5))
    for number in range(4):
        await life.subscriptions.post(
            "/v1/usage-events",
            id=f"{about}-{number}",
            meter=meter["code"],
            value=25,
            at=(APRIL + timedelta(hours=number + 1)).isoformat(),
        )
    await life.advance(days(2.1))
    assert await kept_of(life) == 1000
    await database.execute(
        "UPDATE subscriptions.usage_windows SET charge_ids = '{}', discounts = '[]'"
        " WHERE subscription_id = $1",
        about,
    )

    for number, left in ((0, 750), (1, 500)):
        voided = await life.subscriptions.ask("DELETE", f"/v1/usage-events/{about}-{number}")
        assert voided.is_success, voided.text
        await life.advance(days(3.1 + number))
        assert await kept_of(life) == left


async def kept_of(life: Life) -> int:
    """What was billed and not taken back."""
    notes = (await life.invoicing.get("/v1/credit-notes", limit=100))["data"]
    billed = sum(total(one) for one in (await life.invoicing.get("/v1/invoices"))["data"])
    return billed - sum(int(note["total"]["amount"]) for note in notes)
