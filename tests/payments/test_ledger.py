"""The books: the database itself refuses what must not be."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from services.payments.domain import ledger
from services.payments.tables import ledger_entries, ledger_transactions
from shared.clock import utc_now
from shared.ids import new_id
from shared.money import Money
from tests.payments.world import World


async def a_posting(world: World) -> ledger.Posting:
    posting = ledger.invoice_owed(new_id(), Money(500, "EUR"))
    async with world.runtime.begin() as uow:
        assert await uow.ledger.post(posting, account_id=world.account_id, at=utc_now())
    return posting


@pytest.mark.parametrize("table", ["ledger_transactions", "ledger_entries"])
@pytest.mark.parametrize(
    "statement",
    ["UPDATE {} SET occurred_at = now()", "DELETE FROM {}", "TRUNCATE {} CASCADE"],
)
async def test_the_database_refuses_to_change_the_books(
    world: World, table: str, statement: str
) -> None:
    await a_posting(world)

    with pytest.raises(DBAPIError, match="append-only"):
        async with world.runtime.begin() as uow:
            await uow.session.execute(text(statement.format(table)))


@pytest.mark.parametrize(
    "legs",
    [
        [(100, "EUR")],
        [(100, "EUR"), (-99, "EUR")],
        [(100, "EUR"), (-100, "USD")],
    ],
)
async def test_the_database_refuses_a_transaction_that_does_not_sum_to_zero_per_currency(
    world: World, legs: list[tuple[int, str]]
) -> None:
    with pytest.raises(DBAPIError, match="does not sum to zero"):
        await post(world, legs)


async def post(world: World, legs: list[tuple[int, str]]) -> None:
    """Past the domain, straight into the tables."""
    now, transaction_id = utc_now(), new_id()
    async with world.runtime.begin() as uow:
        await uow.session.execute(
            insert(ledger_transactions).values(
                id=transaction_id,
                occurred_at=now,
                recorded_at=now,
                kind="charge",
                reference=str(transaction_id),
            )
        )
        for amount, currency in legs:
            await uow.session.execute(
                insert(ledger_entries).values(
                    id=new_id(),
                    transaction_id=transaction_id,
                    ledger_account="clearing",
                    amount=amount,
                    currency=currency,
                    occurred_at=now,
                )
            )


async def test_a_movement_is_posted_once_however_often_and_by_however_many(world: World) -> None:
    posting = await a_posting(world)

    async def again() -> bool:
        async with world.runtime.begin() as uow:
            return await uow.ledger.post(posting, account_id=world.account_id, at=utc_now())

    assert not any(await asyncio.gather(*(again() for _ in range(8))))
    assert await world.balances() == {"receivable": 500, "billed": -500}


async def test_balances_are_those_of_the_instant_that_is_asked_for(world: World) -> None:
    before = utc_now()
    await world.attach()
    await world.finalize(amount=5000)
    await world.collect()

    async def balance(**parameters: str) -> dict[str, int]:
        answer = await world.http.get(
            "/v1/ledger/balances",
            params=parameters,
            headers={**world.finance, "Perennial-Account": str(world.account_id)},
        )
        assert answer.status_code == 200, answer.text
        return {row["account"]: row["balance"]["amount"] for row in answer.json()["data"]}

    assert (await balance())["provider:sandbox"] == 5000 - 95
    assert await balance(at=(before - timedelta(seconds=1)).isoformat()) == {}


async def test_the_books_are_for_finance_alone(world: World) -> None:
    for path in ("/v1/ledger/balances", "/v1/ledger/entries"):
        assert (await world.http.get(path, headers=world.member)).status_code == 403
        assert (await world.http.get(path)).status_code == 401


async def test_entries_show_their_legs(world: World) -> None:
    posting = await a_posting(world)
    answer = await world.http.get(
        "/v1/ledger/entries", params={"reference": posting.reference}, headers=world.finance
    )

    (entry,) = answer.json()["data"]
    assert entry["kind"] == "invoice_owed"
    assert sum(leg["amount"]["amount"] for leg in entry["legs"]) == 0


@pytest.mark.parametrize("at", ["1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "2030-01-01"])
async def test_instants_that_cannot_be_computed_with_are_refused(world: World, at: str) -> None:
    for path, name in (("/v1/reconciliation", "since"), ("/v1/ledger/balances", "at")):
        answer = await world.http.get(path, params={name: at}, headers=world.finance)

        assert answer.status_code == 422
        assert [fault["field"] for fault in answer.json()["errors"]] == [f"query.{name}"]
