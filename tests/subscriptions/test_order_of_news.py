"""News of invoices, dunnings and accounts in any order, any number of times: the same end."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.subscriptions.consumers import follow_account, follow_invoice
from services.subscriptions.domain.standing import InvoiceState, Standing
from services.subscriptions.domain.subscription import Subscription
from shared.clock import utc_now
from shared.events import Event
from shared.events.auth import AccountClosed
from shared.events.invoicing import (
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoiceVoided,
)
from shared.events.payments import DunningExhausted, DunningStarted
from shared.ids import new_id
from shared.money import Money
from tests.harness import Running
from tests.subscriptions.conftest import Customer, Shop, answered
from tests.subscriptions.factories import BEGIN

POLICIES = ("cancel", "unpaid", "pause")
HOURS = st.integers(1, 5)


def lapsing(then: str, *, exhausted: int, settled: int | None = None) -> InvoiceState:
    """An invoice whose dunning came to nothing at hour `exhausted`, paid at hour `settled`."""
    state = InvoiceState(invoice_id=new_id(), account_id=new_id(), dunning=True)
    state.note_exhausted(then, BEGIN + timedelta(hours=exhausted))
    if settled is not None:
        state.note_settled(BEGIN + timedelta(hours=settled), paid=True)
    return state


@pytest.mark.parametrize(
    ("then", "settled", "verdict"),
    [
        ("cancel", None, "cancel"),
        ("cancel", 1, None),
        ("cancel", 2, None),  # at the same instant: the money wins
        ("cancel", 3, "cancel"),  # it had ended before the money came
        ("unpaid", None, "unpaid"),
        ("unpaid", 1, None),
        ("unpaid", 3, None),
        ("pause", 3, None),
    ],
)
def test_money_that_came_before_dunning_came_to_nothing_makes_it_moot(
    then: str, settled: int | None, verdict: str | None
) -> None:
    state = lapsing(then, exhausted=2, settled=settled)

    standing = Standing.of([state])

    assert standing.verdict == verdict
    assert standing.owes is (settled is None)


def test_what_staff_give_up_after_dunning_is_still_not_paid() -> None:
    state = lapsing("unpaid", exhausted=2)
    state.note_settled(BEGIN + timedelta(hours=3))
    assert Standing.of([state]).verdict == "unpaid"
    state.note_settled(BEGIN + timedelta(hours=4), paid=True)
    assert Standing.of([state]).verdict is None


class World:
    """A subscription of its own for each example, and the handlers that news would reach."""

    def __init__(self, service: Running, customer: Customer, price_id: str) -> None:
        self.service = service
        self.customer = customer
        self.price_id = price_id
        self.start = utc_now()

    async def begin(self, *, incomplete: bool) -> UUID:
        body = {"price_id": self.price_id}
        made = answered(await self.customer.ask("POST", "/v1/subscriptions", json=body))
        subscription_id = UUID(made["id"])
        if not incomplete:
            first = self.facts(subscription_id, new_id(), 0)
            await self.hear(self.paid(first, reason="subscription_start"))
        return subscription_id

    def facts(self, subscription_id: UUID, invoice_id: UUID, hour: int) -> dict[str, Any]:
        return {
            "occurred_at": self.start + timedelta(hours=hour),
            "account_id": self.customer.account_id,
            "subscription_id": subscription_id,
            "invoice_id": invoice_id,
            "sequence": hour + 1,
        }

    def paid(self, facts: dict[str, Any], reason: str = "subscription_cycle") -> InvoicePaid:
        money = Money(1000, "EUR")
        return InvoicePaid(
            **facts, number="1", total=money, amount_paid=money, billing_reason=reason
        )

    def finalized(self, facts: dict[str, Any], reason: str) -> InvoiceFinalized:
        money = Money(1000, "EUR")
        return InvoiceFinalized(
            **facts,
            number="1",
            total=money,
            amount_due=money,
            due_at=self.start,
            billing_reason=reason,
        )

    async def hear(self, event: Any) -> None:
        """As a delivery would, in a transaction of its own."""
        async with self.service.runtime.begin() as uow:
            if isinstance(event, AccountClosed):
                await follow_account(uow, event)
            else:
                await follow_invoice(uow, event)

    async def end_of(self, subscription_id: UUID) -> dict[str, Any]:
        """What is left once all is heard; numbers and instants of writing aside."""
        async with self.service.runtime.begin() as uow:
            found = await uow.session.get(Subscription, subscription_id)
            assert found is not None
            items = tuple(replace(item, id=UUID(int=0)) for item in found.items)
            names = (
                *("status", "period_start", "period_end", "anchor", "canceled_at", "lapsed_at"),
                *("scheduled_change", "cancel_at_period_end", "resumes_at", "due_at"),
                *("pause_at_period_end", "expires_at"),
            )
            kept = {name: getattr(found, name) for name in names}
            began = found.created_at.replace(microsecond=0)
        for name, value in kept.items():
            if isinstance(value, datetime):
                # Instants of the news are the story's, the others count from its own start.
                since = self.start if name in {"canceled_at", "lapsed_at"} else began
                kept[name] = int((value - since).total_seconds())
        return {**kept, "items": items}


@pytest.fixture
async def world(service: Running, customer: Customer, shop: Shop) -> World:
    return World(service, customer, (await shop.price())["id"])


def story(world: World, about: UUID, data: st.DataObject, *, incomplete: bool) -> list[Event]:
    """What may have happened to one or two invoices, at instants that may fall together."""
    told: list[Event] = []
    for number in range(data.draw(st.integers(1, 2), label="invoices")):
        reason = "subscription_start" if incomplete and not number else "subscription_cycle"
        invoice_id = new_id()

        def facts(invoice_id: UUID = invoice_id) -> dict[str, Any]:
            return world.facts(about, invoice_id, data.draw(HOURS, label="hour"))

        told.append(world.finalized(facts(), reason))
        if data.draw(st.booleans(), label="paid"):
            told.append(world.paid(facts(), reason))
        dunning = {"dunning_id": new_id(), "payment_id": new_id()}
        if data.draw(st.booleans(), label="dunned"):
            told.append(DunningStarted(**facts(), **dunning, decline_class="retry_later"))
        # One policy per example: it is the plan's. Its instant is the same for both invoices.
        if data.draw(st.booleans(), label="exhausted"):
            exhausted = world.facts(about, invoice_id, 3)
            then = world_policy(data)
            told.append(DunningExhausted(**exhausted, **dunning, then=then))
        ended = data.draw(st.sampled_from([None, InvoiceVoided, InvoiceMarkedUncollectible]))
        if ended is not None:
            told.append(ended(**facts()))
    return told


def world_policy(data: st.DataObject) -> str:
    return data.draw(st.shared(st.sampled_from(POLICIES), key="policy"), label="policy")


@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.generate],  # each example writes to a database: no shrinking
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
async def test_news_shuffled_and_repeated_end_in_the_same_state(
    world: World, data: st.DataObject
) -> None:
    incomplete = data.draw(st.booleans(), label="incomplete")
    ends = []
    first = await world.begin(incomplete=incomplete)
    told = story(world, first, data, incomplete=incomplete)
    for shuffled in range(3):
        about = first if not shuffled else await world.begin(incomplete=incomplete)
        renamed = {first: about}
        news = [renewed(event, renamed) for event in told]
        if shuffled:
            again = data.draw(st.lists(st.sampled_from(news), max_size=4), label="duplicates")
            news = data.draw(st.permutations([*news, *again]), label="order")
        for event in news:
            await world.hear(event)
        ends.append(await world.end_of(about))

    assert ends[1] == ends[0]
    assert ends[2] == ends[0]


def renewed(event: Any, renamed: dict[UUID, UUID]) -> Any:
    """The same news of another subscription, whose invoices have ids of their own."""
    invoice = renamed.setdefault(event.invoice_id, new_id())
    if renamed[event.subscription_id] == event.subscription_id:
        invoice = renamed[event.invoice_id] = event.invoice_id
    return event.model_copy(
        update={
            "id": new_id(),
            "subscription_id": renamed[event.subscription_id],
            "invoice_id": invoice,
        }
    )


@pytest.mark.parametrize("then", POLICIES)
@pytest.mark.parametrize(("paid_at", "late"), [(2, False), (3, False), (4, True)])
async def test_a_payment_and_an_exhausted_dunning_in_every_order(
    world: World, then: Any, paid_at: int, *, late: bool
) -> None:
    ends = []
    for order in permutations(range(3)):
        about = await world.begin(incomplete=False)
        invoice_id = new_id()
        dunning = {"dunning_id": new_id(), "payment_id": new_id()}
        news: list[Event] = [
            DunningStarted(
                **world.facts(about, invoice_id, 1), **dunning, decline_class="retry_later"
            ),
            DunningExhausted(**world.facts(about, invoice_id, 3), **dunning, then=then),
            world.paid(world.facts(about, invoice_id, paid_at)),
        ]
        for number in order:
            await world.hear(news[number])
        ends.append((await world.end_of(about))["status"])

    assert set(ends) == {"canceled" if late and then == "cancel" else "active"}


async def test_a_closed_account_stays_closed_whatever_else_is_heard(
    service: Running, new_customer: Any, shop: Shop
) -> None:
    ends = []
    price = (await shop.price())["id"]
    for order in permutations(range(3)):
        world = World(service, await new_customer(), price)
        about = await world.begin(incomplete=True)
        invoice = world.facts(about, new_id(), 1)
        news: list[Event] = [
            world.finalized(invoice, "subscription_start"),
            world.paid(invoice, "subscription_start"),
            AccountClosed(
                occurred_at=world.start, account_id=world.customer.account_id, sequence=2
            ),
        ]
        for number in order:
            await world.hear(news[number])
        ends.append((await world.end_of(about))["status"])

    assert set(ends) == {"canceled"}


async def test_a_start_that_expired_although_it_was_paid_begins_after_all(world: World) -> None:
    about = await world.begin(incomplete=True)
    async with world.service.runtime.begin() as uow:
        subscription = await uow.subscriptions.get(about)
        period = subscription.period
        uow.emit(subscription.expire(now=utc_now()))

    await world.hear(world.paid(world.facts(about, new_id(), 1), "subscription_start"))

    end = await world.end_of(about)
    assert end["status"] == "active"
    async with world.service.runtime.begin() as uow:
        assert (await uow.subscriptions.get(about)).period == period


async def test_usage_before_a_dunning_that_was_moot_is_billed_once(
    service: Running, customer: Customer, shop: Shop, staff: Any
) -> None:
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    price = await shop.price(
        type="metered", unit_amount=10, meter_id=meter["id"], aggregation="sum"
    )
    world = World(service, customer, price["id"])
    about = UUID((await customer.post("/v1/subscriptions", price_id=price["id"]))["id"])
    invoice_id, dunning = new_id(), {"dunning_id": new_id(), "payment_id": new_id()}

    await world.hear(
        DunningExhausted(**world.facts(about, invoice_id, 3), **dunning, then="cancel")
    )
    async with service.runtime.begin() as uow:
        ended = await uow.subscriptions.get(about)
        assert ended.status == "canceled"
    await world.hear(world.paid(world.facts(about, invoice_id, 2)))

    async with service.runtime.begin() as uow:
        back = await uow.subscriptions.get(about)
        assert back.status == "active"
        assert back.cancel_reason is None
        # What was used until it lapsed, in that second too, was billed then; the rest is billed
        # at the period's end.
        lapsed = (world.start + timedelta(hours=3)).replace(microsecond=0)
        assert back.items[0].metered_from == lapsed + timedelta(seconds=1)
