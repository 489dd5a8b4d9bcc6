"""Token balances: bought, granted when paid, spent soonest-to-expire first, never below zero."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from services.subscriptions import tables
from services.subscriptions.domain.tokens import TokenGrant, TokensShort, spend
from shared.clock import utc_now
from shared.events.invoicing import InvoicePaid, InvoiceVoided
from shared.events.subscriptions import TokensOrdered, TokensRefunded
from shared.ids import new_id
from shared.money import Money
from tests.eventlog import EventLog
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Publish, until

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def a_grant(remaining: int, expires_in: int | None) -> TokenGrant:
    return TokenGrant(
        id=new_id(),
        account_id=UUID(int=1),
        order_id=None,
        granted=max(remaining, 1),
        remaining=remaining,
        expires_at=None if expires_in is None else NOW + timedelta(days=expires_in),
        created_at=NOW,
    )


def test_the_soonest_to_expire_is_spent_first_and_the_expired_not_at_all() -> None:
    forever, late, soon, gone = a_grant(5, None), a_grant(5, 30), a_grant(5, 3), a_grant(5, 0)

    taken = spend([forever, late, soon, gone], 12, now=NOW)

    assert taken == [(soon.id, 5), (late.id, 5), (forever.id, 2)]
    assert gone.remaining == 5


@given(
    st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(-3, 9)), max_size=8),
    st.integers(1, 300),
)
def test_a_debit_takes_all_or_nothing(lots: list[tuple[int, int | None]], amount: int) -> None:
    grants = [a_grant(remaining, expires) for remaining, expires in lots]
    before = sum(grant.remaining for grant in grants)
    usable = sum(r for r, expires in lots if expires is None or expires > 0)

    if usable < amount:
        with pytest.raises(TokensShort):
            spend(grants, amount, now=NOW)
        assert sum(grant.remaining for grant in grants) == before
    else:
        taken = spend(grants, amount, now=NOW)
        assert sum(part for _, part in taken) == amount
        assert before - sum(grant.remaining for grant in grants) == amount
        assert min(grant.remaining for grant in grants) >= 0


@pytest.fixture
async def bundle(staff: Client) -> dict[str, Any]:
    made: dict[str, Any] = await staff.post(
        "/v1/bundles",
        code=f"b-{new_id()}",
        name="Tokens",
        tokens=100,
        amount=1000,
        currency="EUR",
        expires_after_days=30,
    )
    return made


async def bought(customer: Customer, publish: Publish, bundle: dict[str, Any]) -> dict[str, Any]:
    """A bundle, paid for."""
    order: dict[str, Any] = await customer.post(
        "/v1/token-balance/purchase", bundle_id=bundle["id"]
    )
    before = (await customer.get("/v1/token-balance"))["balance"]
    await publish(
        InvoicePaid(
            occurred_at=utc_now(),
            account_id=customer.account_id,
            sequence=2,
            invoice_id=new_id(),
            order_id=UUID(order["id"]),
            number="INV-1",
            total=Money(1000, "EUR"),
            amount_paid=Money(1000, "EUR"),
            billing_reason="manual",
        )
    )

    async def granted() -> Any:
        found = await customer.get("/v1/token-balance")
        return found if found["balance"] > before else None

    await until(granted)
    return order


@pytest.mark.servers
async def test_a_purchase_is_billed_and_its_tokens_come_when_it_is_paid(
    customer: Customer, publish: Publish, bundle: dict[str, Any], events: EventLog
) -> None:
    order = await bought(customer, publish, bundle)

    ordered = await events.next(TokensOrdered, about=UUID(order["id"]))
    assert [(charge.kind, charge.amount) for charge in ordered.charges] == [("tokens", 1000)]
    balance = await customer.get("/v1/token-balance")
    assert balance["balance"] == 100
    expires = datetime.fromisoformat(balance["grants"][0]["expires_at"])
    assert timedelta(days=29) < expires - utc_now() < timedelta(days=31)


@pytest.mark.servers
async def test_a_debit_counts_once_per_key(
    customer: Customer, publish: Publish, bundle: dict[str, Any]
) -> None:
    await bought(customer, publish, bundle)
    key = {"Idempotency-Key": str(new_id())}
    body = {"amount": 30, "reason": "render"}

    for _ in range(2):
        answer = await customer.ask("POST", "/v1/token-balance/debit", json=body, headers=key)
        assert answer.json()["balance"] == 70
    assert (await customer.get("/v1/token-balance"))["balance"] == 70
    entries = (await customer.get("/v1/token-balance/entries"))["data"]
    assert [(entry["kind"], entry["amount"]) for entry in entries] == [
        ("debit", -30),
        ("grant", 100),
    ]
    assert await customer.refused("/v1/token-balance/debit", amount=71, reason="x") == (
        409,
        "not-enough-tokens",
    )


@pytest.mark.servers
async def test_fifty_debits_at_once_never_go_below_zero(
    customer: Customer, publish: Publish, bundle: dict[str, Any], service: Running
) -> None:
    for _ in range(2):
        await bought(customer, publish, bundle)

    answers = await asyncio.gather(
        *(
            customer.ask("POST", "/v1/token-balance/debit", json={"amount": 7, "reason": "x"})
            for _ in range(50)
        )
    )

    done = sum(answer.is_success for answer in answers)
    assert done == 200 // 7
    assert {answer.status_code for answer in answers} == {200, 409}
    assert (await customer.get("/v1/token-balance"))["balance"] == 200 - 7 * done
    async with service.runtime.begin() as uow:
        entries = tables.token_entries.c
        ledger = await uow.session.scalar(
            select(func.sum(entries.amount)).where(entries.account_id == customer.account_id)
        )
    assert ledger == 200 - 7 * done


@pytest.mark.servers
async def test_an_unused_purchase_can_be_taken_back_and_a_used_one_cannot(
    customer: Customer, staff: Client, publish: Publish, bundle: dict[str, Any], events: EventLog
) -> None:
    unused = await bought(customer, publish, bundle)
    path = f"/v1/token-balance/purchases/{unused['id']}/refund"

    refunded = await staff.post(path)

    assert refunded["status"] == "refunded"
    assert (await customer.get("/v1/token-balance"))["balance"] == 0
    await events.next(TokensRefunded, about=UUID(unused["id"]))
    assert await staff.refused(path) == (409, "tokens-used")
    used = await bought(customer, publish, bundle)
    await customer.post("/v1/token-balance/debit", amount=1, reason="x")
    assert await staff.refused(f"/v1/token-balance/purchases/{used['id']}/refund") == (
        409,
        "tokens-used",
    )


@pytest.mark.servers
async def test_a_voided_purchase_brings_nothing(
    customer: Customer, publish: Publish, bundle: dict[str, Any]
) -> None:
    order = await customer.post("/v1/token-balance/purchase", bundle_id=bundle["id"])
    await publish(
        InvoiceVoided(
            occurred_at=utc_now(),
            account_id=customer.account_id,
            sequence=2,
            invoice_id=new_id(),
            order_id=UUID(order["id"]),
        )
    )

    async def canceled() -> Any:
        found = (await customer.get("/v1/token-balance/purchases"))["data"]
        return found[0]["status"] == "canceled"

    await until(canceled)


@pytest.mark.servers
async def test_what_is_not_spent_in_time_is_written_off(
    customer: Customer, publish: Publish, bundle: dict[str, Any], service: Running
) -> None:
    await bought(customer, publish, bundle)
    async with service.runtime.begin() as uow:
        await uow.session.execute(
            tables.token_grants.update()
            .where(tables.token_grants.c.account_id == customer.account_id)
            .values(expires_at=utc_now())
        )
        uow.wake("expire_token_grants")

    async def written() -> Any:
        found = (await customer.get("/v1/token-balance/entries"))["data"]
        return found[0]["kind"] == "expiry"

    await until(written)
    assert (await customer.get("/v1/token-balance"))["balance"] == 0
