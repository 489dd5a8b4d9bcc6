"""How hard a provider is asked, through the jobs and the API: its rate, its rests, whose turn."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import update

from services.payments import schedule
from services.payments.domain.payments import OPEN_ATTEMPTS, AttemptStatus, PaymentStatus
from services.payments.providers import use
from services.payments.providers.base import (
    Charged,
    ChargeOutcome,
    ChargeRequest,
    DeclineClass,
    Declined,
    LookUp,
    Uncertain,
)
from services.payments.providers.sandbox import SandboxProvider, SandboxProviderSettings
from services.payments.tables import attempts, payments
from services.payments.traffic import OPEN, RESTS_SECONDS, TRIPS_AFTER
from services.payments.use_cases.collect_payments import claim_due
from shared.clock import utc_now
from shared.events.invoicing import InvoiceFinalized
from shared.ids import new_id
from shared.schedule import Due
from tests.payments.world import World

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("_nothing_else_is_due")]


@pytest.fixture
async def _nothing_else_is_due(world: World) -> None:
    """What other tests left behind would be sent, or asked about, as well."""
    async with world.runtime.begin() as uow:
        await uow.session.execute(update(payments).values(due_at=None))
        await uow.session.execute(
            update(attempts)
            .where(attempts.c.status.in_(OPEN_ATTEMPTS))
            .values(status=AttemptStatus.CANCELED, ask_at=None)
        )


#: A quarter is kept for customers; the others are as many as the lost answers that trip a circuit.
SLOTS = 26
assert SLOTS - SLOTS // 4 == TRIPS_AFTER


class Watched(SandboxProvider):
    """A provider that answers at once, and writes down what it was asked and when."""

    def __init__(self, world: World, *, calls_per_second: float, name: str = "sandbox") -> None:
        settings = SandboxProviderSettings(url=world.sandbox.url, calls_per_second=calls_per_second)
        super().__init__(settings)
        self.name = name
        self.asked: list[str] = []
        self.looked_up: list[str] = []
        self.is_down = False
        #: While its answers get lost, it takes the charges nevertheless.
        self.tells_later = False
        #: While it is not set, nobody gets an answer.
        self.answers = asyncio.Event()
        self.answers.set()
        #: The seconds of the provider's lane, which a test moves.
        self.seconds = 0.0
        world.collector.traffic.clock = lambda: self.seconds

    async def charge(self, request: ChargeRequest) -> ChargeOutcome:
        self.asked.append(request.metadata["invoice_id"])
        await self.answers.wait()
        if self.is_down:
            return Uncertain(reason="down")
        return Charged(reference=f"ch_{request.key}", amount=request.amount)

    async def look_up(self, *, key: str, reference: str | None = None) -> LookUp:
        del reference
        self.looked_up.append(key)
        if self.tells_later:
            return Declined(decline_class=DeclineClass.RETRY_LATER, code="insufficient_funds")
        return Uncertain(reason="down")


async def once(world: World) -> None:
    """What one look at the due payments sends, to its end."""
    await schedule.collect_due(world.runtime, Due(utc_now(), world.runtime.database.platform))
    await world.collector.drain()


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not fact():  # noqa: ASYNC110  (a double has no event for it)
            await asyncio.sleep(0)


async def a_month_start(world: World, count: int) -> list[InvoiceFinalized]:
    await world.attach()
    return [await world.finalize() for _ in range(count)]


async def test_a_month_start_run_does_not_flood_the_provider(world: World) -> None:
    provider = Watched(world, calls_per_second=20)
    use(provider)
    await a_month_start(world, 60)

    counts = []
    for half_seconds in range(7):
        provider.seconds = half_seconds / 2
        for _ in range(5):  # however often the job looks
            await once(world)
        counts.append(len(provider.asked))

    # A second's worth, a quarter of it kept for customers; then what each half second brings.
    assert counts == [15, 25, 35, 45, 55, 60, 60]
    assert len(set(provider.asked)) == 60


async def test_a_customer_who_waits_is_served_in_the_middle_of_a_run(world: World) -> None:
    provider = Watched(world, calls_per_second=20)
    use(provider)
    await a_month_start(world, 60)
    for _ in range(5):
        await once(world)
    assert len(provider.asked) == 15  # for the run, this second is over

    started = await world.finalize(billing_reason="subscription_start")
    await once(world)
    assert provider.asked[-1] == str(started.invoice_id)
    by_hand = await world.finalize(billing_reason="manual", collect_automatically=False)
    paid = await world.http.post(
        f"/v1/invoices/{by_hand.invoice_id}/pay",
        json={},
        headers={**world.member, "Idempotency-Key": "pay"},
    )
    assert paid.json()["status"] == "succeeded"
    assert len(provider.asked) == 17


async def test_paying_by_hand_keeps_to_the_rate_as_well(world: World) -> None:
    provider = Watched(world, calls_per_second=4)
    use(provider)
    await world.attach()
    invoices = [await world.finalize(collect_automatically=False) for _ in range(6)]

    async def pay(invoice: InvoiceFinalized) -> str:
        answer = await world.http.post(
            f"/v1/invoices/{invoice.invoice_id}/pay",
            json={},
            headers={**world.member, "Idempotency-Key": f"pay-{invoice.invoice_id}"},
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["status"])

    assert [await pay(invoice) for invoice in invoices] == ["succeeded"] * 4 + ["created"] * 2
    provider.seconds = 1.0
    await once(world)
    assert provider.asked == [str(invoice.invoice_id) for invoice in invoices]


async def test_a_provider_that_is_down_is_left_alone_tried_once_and_then_used_again(
    world: World,
) -> None:
    provider = Watched(world, calls_per_second=1e6)
    provider.is_down = True
    use(provider)
    await a_month_start(world, 3 * TRIPS_AFTER)
    world.collector._slots = SLOTS

    await once(world)
    assert len(provider.asked) == TRIPS_AFTER  # all lost: the circuit opens
    await once(world)
    await once(world)
    assert len(provider.asked) == TRIPS_AFTER
    assert OPEN.labels("sandbox")._value.get() == 1
    waiting = await world.finalize(billing_reason="subscription_start")
    answer = await world.http.post(
        f"/v1/invoices/{waiting.invoice_id}/pay",
        json={},
        headers={**world.member, "Idempotency-Key": "while-it-rests"},
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "created")
    assert len(provider.asked) == TRIPS_AFTER

    provider.seconds += RESTS_SECONDS  # half open: one is let through, who waits comes first
    await once(world)
    await once(world)
    assert provider.asked[TRIPS_AFTER:] == [str(waiting.invoice_id)]

    provider.is_down = False
    provider.seconds += RESTS_SECONDS
    await once(world)
    assert len(provider.asked) == TRIPS_AFTER + 2  # that one came back: the circuit closes
    assert OPEN.labels("sandbox")._value.get() == 0
    await once(world)
    await once(world)
    await once(world)
    assert len(provider.asked) == 3 * TRIPS_AFTER + 1
    assert len(set(provider.asked)) == len(provider.asked)


async def down(world: World, *, due: int) -> Watched:
    """A provider whose circuit has just opened, and so many payments that are due, or were."""
    provider = Watched(world, calls_per_second=1e6)
    provider.is_down = True
    use(provider)
    await a_month_start(world, due)
    world.collector._slots = SLOTS
    await once(world)
    assert len(provider.asked) == TRIPS_AFTER
    return provider


async def test_what_waits_for_its_payer_tells_nothing_of_a_provider_that_is_down(
    world: World,
) -> None:
    provider = await down(world, due=TRIPS_AFTER)
    async with world.runtime.begin() as uow:
        await uow.session.execute(
            update(attempts)
            .where(attempts.c.account_id == world.account_id)
            .values(status=AttemptStatus.REQUIRES_ACTION)
        )
    provider.tells_later = True
    await world.reconcile()

    assert len(provider.looked_up) == TRIPS_AFTER
    assert OPEN.labels("sandbox")._value.get() == 1


async def test_a_provider_whose_answers_are_late_is_not_taken_for_one_that_is_down(
    world: World,
) -> None:
    provider = await down(world, due=2 * TRIPS_AFTER)
    await world.reconcile()  # nobody answers this either
    await once(world)
    assert len(provider.asked) == TRIPS_AFTER

    provider.tells_later = True
    await world.reconcile()

    assert OPEN.labels("sandbox")._value.get() == 0
    await once(world)
    assert len(provider.asked) == 2 * TRIPS_AFTER


async def test_one_provider_that_rests_holds_up_no_other(world: World) -> None:
    down = Watched(world, calls_per_second=1e6)
    down.is_down = True
    use(down)
    await a_month_start(world, 2 * TRIPS_AFTER + schedule.BATCH)
    world.collector._slots = SLOTS
    await once(world)
    up = Watched(world, calls_per_second=1e6, name="other")
    world.collector.traffic.clock = lambda: down.seconds
    use(up)
    world.collector.traffic.lane("other", rate=up.calls_per_second)
    await world.attach_directly("other")
    behind = await world.finalize()
    await once(world)

    assert up.asked == [str(behind.invoice_id)]
    assert len(down.asked) == TRIPS_AFTER


async def test_the_reconciler_keeps_to_the_rate_too(world: World) -> None:
    provider = Watched(world, calls_per_second=40)
    provider.is_down = True
    use(provider)
    await a_month_start(world, 10)
    await once(world)
    lane = world.collector.traffic.lane("sandbox", rate=40)
    before = lane._tokens

    await world.reconcile()

    assert len(provider.looked_up) == 10
    assert before - lane._tokens == 10
    assert len(provider.asked) == 10  # and nothing was sent again


async def test_a_customer_is_served_while_a_slow_provider_holds_the_run(world: World) -> None:
    """Slots are kept as well as calls: a quarter of them is for whom a customer waits."""
    provider = Watched(world, calls_per_second=1e6)
    provider.answers.clear()
    use(provider)
    await a_month_start(world, 6)
    world.collector._slots = 4
    due = Due(utc_now(), world.runtime.database.platform)
    await schedule.collect_due(world.runtime, due)
    await until(lambda: len(provider.asked) == 3)

    started = await world.finalize(billing_reason="subscription_start")
    await schedule.collect_due(world.runtime, Due(utc_now(), world.runtime.database.platform))
    await until(lambda: len(provider.asked) == 4)
    assert provider.asked[-1] == str(started.invoice_id)
    provider.answers.set()
    await world.collector.drain()
    assert (await world.payment(started)).status is PaymentStatus.SUCCEEDED


async def test_answers_that_come_together_are_written_together_and_a_bad_one_holds_up_no_other(
    world: World,
) -> None:
    provider = Watched(world, calls_per_second=1e6)
    provider.answers.clear()
    use(provider)
    invoices = await a_month_start(world, 12)
    async with world.runtime.begin() as uow:
        claims = await claim_due(
            uow,
            Due(utc_now(), world.runtime.database.platform),
            limit=50,
            only_urgent=False,
            owner=world.collector.owner,
            real_now=utc_now(),
            traffic=world.collector.traffic,
        )
    bad = replace(claims.claims[5], payment_id=new_id())
    running = world.collector.start([*claims.claims, bad])
    await until(lambda: len(provider.asked) == 13)
    provider.answers.set()
    await asyncio.gather(*running)

    assert [(await world.payment(i)).status for i in invoices] == [PaymentStatus.SUCCEEDED] * 12
    assert world.collector.free == world.collector._slots
    names = await world.names()
    assert names.count("payment.succeeded") == 12
    entries = await world.balances()
    assert entries["clearing"] == -12 * 1999
