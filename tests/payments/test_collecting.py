"""From a finalized invoice to the money, with every way in which it can go wrong."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest

from services.payments import schedule
from services.payments.domain.payments import AttemptStatus, PaymentStatus
from services.payments.providers import use
from services.payments.providers.base import ChargeOutcome, ChargeRequest, LookUp, Uncertain
from services.payments.providers.sandbox import SandboxProvider, SandboxProviderSettings
from services.payments.use_cases.collect_payments import claim_due
from shared.clock import utc_now
from shared.schedule import Due
from tests.payments.factories import (
    NOW,
    an_invoice_paid,
    an_invoice_partly_paid,
    an_invoice_voided,
)
from tests.payments.world import World


async def test_a_finalized_invoice_is_charged_once_and_reported(world: World) -> None:
    await world.attach()
    invoice = await world.finalize()
    await world.collect()
    await world.collect()

    payment = await world.payment(invoice)
    assert payment.status is PaymentStatus.SUCCEEDED
    assert world.sandbox.taken(invoice.invoice_id) == 1
    assert await world.names() == [
        "payment_method.attached",
        "payment.created",
        "payment.succeeded",
    ]


async def test_a_paid_invoice_leaves_the_money_with_the_provider_and_nothing_in_clearing(
    world: World,
) -> None:
    await world.attach()
    invoice = await world.finalize(amount=10_000)
    await world.collect()
    assert (await world.balances())["clearing"] == -10_000
    await world.invoice_paid(invoice)

    assert await world.balances() == {"provider:sandbox": 9835, "fees": 165, "billed": -10_000}


class Slow(SandboxProvider):
    """A provider that loses each answer, and only when it is told to."""

    def __init__(self, settings: SandboxProviderSettings) -> None:
        super().__init__(settings)
        self.was_asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def charge(self, request: ChargeRequest) -> ChargeOutcome:
        del request
        self.was_asked.set()
        await self.may_answer.wait()
        return Uncertain(reason="lost")


async def test_the_attempt_is_stored_before_the_provider_is_called(world: World) -> None:
    provider = Slow(SandboxProviderSettings())
    use(provider)
    await world.attach()
    invoice = await world.finalize()
    running = asyncio.create_task(world.collect())
    await provider.was_asked.wait()

    (attempt,) = await world.attempts(invoice)
    assert attempt.status is AttemptStatus.UNKNOWN
    assert attempt.owner == world.collector.owner
    assert attempt.deadline > utc_now()
    assert (await world.payment(invoice)).status is PaymentStatus.PROCESSING
    provider.may_answer.set()
    await running
    assert (await world.payment(invoice)).status is PaymentStatus.UNKNOWN


@pytest.mark.parametrize("token", ["tok_timeout_before", "tok_timeout_after"])
async def test_a_lost_answer_is_settled_by_the_reconciler_with_one_charge(
    world: World, token: str
) -> None:
    await world.attach(token)
    invoice = await world.finalize()
    await world.collect()
    assert (await world.payment(invoice)).status is PaymentStatus.UNKNOWN
    await world.collect()  # nothing is charged again out of `unknown`

    await world.reconcile()

    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED
    assert world.sandbox.taken(invoice.invoice_id) == 1
    assert len(await world.attempts(invoice)) == 1


async def test_without_a_payment_method_a_new_card_is_asked_for(world: World) -> None:
    invoice = await world.finalize()
    await world.collect()

    failed = (await world.emitted())[1]
    assert failed["type"] == "payment.failed"
    assert failed["data"]["decline_class"] == "new_card"
    assert failed["data"]["decline_code"] == "no_payment_method"
    assert failed["data"]["attempts"] == 0
    assert (await world.names())[2:] == ["dunning.started"]

    await world.attach()  # retried at once
    await world.collect()
    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED
    assert (await world.names())[-2:] == ["payment.succeeded", "dunning.recovered"]


async def test_a_renewal_that_fails_is_retried_by_the_plan_and_then_given_up(world: World) -> None:
    await world.attach("tok_insufficient_funds")
    at = NOW
    await world.set_clock(at)
    invoice = await world.finalize(occurred_at=at)
    await world.collect(at=at)
    for days in (1, 3, 5, 7):
        payment = await world.payment(invoice)
        assert payment.due_at == at + timedelta(days=days)
        at = payment.due_at
        await world.set_clock(at - timedelta(seconds=1))
        await world.collect(at=at - timedelta(seconds=1))
        assert len(await world.attempts(invoice)) == payment.attempts
        await world.set_clock(at)
        await world.collect(at=at)

    assert await world.names() == [
        "payment_method.attached",
        "payment.created",
        "payment.failed",
        "dunning.started",
        *["payment.failed"] * 4,
        "dunning.exhausted",
    ]
    assert (await world.payment(invoice)).due_at is None
    exhausted = (await world.emitted())[-1]
    assert exhausted["time"].startswith("2026-01-17T12:00:00")
    assert exhausted["data"]["then"] == "cancel"


async def test_a_card_that_recovers_ends_the_dunning(world: World) -> None:
    await world.attach("tok_fails_then_ok:1")
    await world.set_clock(NOW)
    invoice = await world.finalize(occurred_at=NOW)
    await world.collect(at=NOW)
    await world.set_clock(NOW + timedelta(days=1))
    await world.collect(at=NOW + timedelta(days=1))

    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED
    assert (await world.names())[2:] == [
        "payment.failed",
        "dunning.started",
        "payment.succeeded",
        "dunning.recovered",
    ]


async def test_a_first_payment_that_fails_starts_no_dunning(world: World) -> None:
    await world.attach("tok_insufficient_funds")
    invoice = await world.finalize(billing_reason="subscription_start")
    await world.collect()

    assert (await world.names())[2:] == ["payment.failed"]
    assert (await world.payment(invoice)).due_at is None


async def test_fraud_is_not_asked_again(world: World) -> None:
    await world.attach("tok_fraud")
    invoice = await world.finalize()
    await world.collect()

    assert (await world.names())[2:] == ["payment.failed", "dunning.started", "dunning.exhausted"]
    assert (await world.payment(invoice)).due_at is None


async def test_an_expired_card_waits_for_a_new_one_until_the_time_is_over(world: World) -> None:
    await world.attach("tok_expired_card")
    await world.set_clock(NOW)
    invoice = await world.finalize(occurred_at=NOW)
    await world.collect(at=NOW)
    async with world.runtime.begin() as uow:
        ends = await schedule._next_end(uow, world.account_id)

    assert ends == NOW + timedelta(days=16)
    assert await world.run(schedule.exhaust_dunnings, at=ends - timedelta(seconds=1)) == 0
    assert await world.run(schedule.exhaust_dunnings, at=ends) == 1
    assert (await world.names())[-1] == "dunning.exhausted"
    assert len(await world.attempts(invoice)) == 1


async def test_a_payer_who_confirms_pays(world: World) -> None:
    await world.attach("tok_requires_action")
    invoice = await world.finalize()
    await world.collect()
    answer = await world.http.get(
        "/v1/payments", params={"invoice_id": str(invoice.invoice_id)}, headers=world.member
    )
    (shown,) = answer.json()["data"]
    assert shown["status"] == "requires_action"
    assert shown["next_action"]["url"].startswith(world.sandbox.url)

    charge = world.sandbox.charges(invoice.invoice_id)[0]
    world.sandbox.post(f"/v1/charges/{charge['id']}/confirm", {"success": True})
    await world.reconcile()

    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED
    assert "payment.action_required" in await world.names()


async def test_a_new_card_gives_up_the_one_that_waits_for_the_payer(world: World) -> None:
    await world.attach("tok_requires_action")
    invoice = await world.finalize()
    await world.collect()
    await world.attach("tok_ok")
    await world.collect()
    await world.reconcile()
    await world.collect()

    first, second = await world.attempts(invoice)
    assert (first.status, second.status) == (AttemptStatus.CANCELED, AttemptStatus.SUCCEEDED)
    assert world.sandbox.taken(invoice.invoice_id) == 1
    states = [charge["status"] for charge in world.sandbox.charges(invoice.invoice_id)]
    assert states == ["canceled", "succeeded"]


async def test_a_voided_invoice_is_not_collected(world: World) -> None:
    await world.attach()
    invoice = await world.finalize()
    await world.take(an_invoice_voided(invoice))
    await world.collect()

    assert (await world.payment(invoice)).status is PaymentStatus.CANCELED
    assert world.sandbox.charges(invoice.invoice_id) == []
    assert await world.balances() == {}


@pytest.mark.parametrize("token", ["tok_timeout_after", "tok_ok"])
async def test_money_that_comes_after_a_void_goes_back(world: World, token: str) -> None:
    await world.attach(token)
    invoice = await world.finalize()
    await world.collect()
    await world.take(an_invoice_voided(invoice))
    await world.reconcile()
    await world.run(schedule.send_refunds)

    (charge,) = world.sandbox.charges(invoice.invoice_id)
    assert charge["refunded"] == charge["captured"] == 1999
    assert "clearing" not in await world.balances()
    assert (await world.names())[-1] == "refund.succeeded"


async def test_an_invoice_paid_otherwise_is_collected_no_more_and_its_money_goes_back(
    world: World,
) -> None:
    await world.attach("tok_timeout_after")
    invoice = await world.finalize()
    await world.collect()
    await world.take(an_invoice_paid(invoice))
    await world.pay_everything()

    assert world.sandbox.charges(invoice.invoice_id)[0]["refunded"] == 1999
    assert await world.balances() == {
        "offline": 1999,
        "billed": -1999,
        "fees": 53,
        "provider:sandbox": -53,
    }


async def test_a_lost_request_for_a_voided_invoice_is_never_sent(world: World) -> None:
    await world.attach("tok_timeout_before")
    invoice = await world.finalize()
    await world.collect()
    await world.take(an_invoice_voided(invoice))
    await world.reconcile()

    assert (await world.payment(invoice)).status is PaymentStatus.CANCELED
    assert world.sandbox.charges(invoice.invoice_id) == []


async def test_while_an_answer_is_awaited_the_account_is_busy(world: World) -> None:
    await world.attach("tok_timeout_before")
    await world.finalize()
    async with world.runtime.begin() as uow:
        assert await schedule._is_busy(uow, world.account_id)
    await world.collect()
    async with world.runtime.begin() as uow:
        assert await schedule._is_busy(uow, world.account_id)
    await world.reconcile()
    async with world.runtime.begin() as uow:
        assert not await schedule._is_busy(uow, world.account_id)


async def test_a_currency_that_cannot_be_charged_asks_no_provider(world: World) -> None:
    await world.attach()
    invoice = await world.finalize(amount=100_000_000)
    await world.collect()

    assert (await world.payment(invoice)).decline_code == "amount_not_supported"
    assert world.sandbox.charges(invoice.invoice_id) == []


async def test_fifty_people_paying_one_invoice_at_once_are_charged_once(world: World) -> None:
    await world.attach("tok_insufficient_funds")
    invoice = await world.finalize(billing_reason="subscription_start")
    await world.collect()
    method = await world.attach("tok_ok", make_default=True)
    async with world.runtime.begin() as uow:
        payment = await uow.payments.find_for_invoice(invoice.invoice_id)
        assert payment is not None
        payment.due_at = None

    async def pay(number: int) -> int:
        """As a client does it: where there is no room for it now, again under the same key."""
        while True:
            answer = await world.http.post(
                f"/v1/invoices/{invoice.invoice_id}/pay",
                json={"payment_method_id": str(method)},
                headers={**world.member, "Idempotency-Key": f"pay-{number}"},
            )
            if answer.status_code != 503:
                return answer.status_code

    statuses = await asyncio.gather(*(pay(number) for number in range(50)))

    assert set(statuses) <= {200, 409}
    assert world.sandbox.taken(invoice.invoice_id) == 1
    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED
    assert [name for name in await world.names() if name == "payment.succeeded"] == [
        "payment.succeeded"
    ]


async def test_two_workers_claim_a_payment_once(world: World) -> None:
    await world.attach()
    invoices = [await world.finalize() for _ in range(20)]
    await asyncio.gather(*(world.collect() for _ in range(5)))

    for invoice in invoices:
        assert world.sandbox.taken(invoice.invoice_id) == 1
    assert await world.run(schedule.collect_due) == 0
    assert utc_now() > invoices[0].occurred_at


async def test_a_process_that_was_held_up_does_not_send_what_others_have_given_up(
    world: World,
) -> None:
    await world.attach()
    invoice = await world.finalize()
    long_ago = utc_now() - timedelta(seconds=60)
    async with world.runtime.begin() as uow:
        claims = await claim_due(
            uow,
            Due(utc_now(), world.runtime.database.platform),
            limit=1000,
            only_urgent=False,
            owner="somebody",
            real_now=long_ago,
            traffic=world.collector.traffic,
        )
    await world.take(an_invoice_voided(invoice))
    await world.run(schedule.ask_providers)  # it was never heard of, and is given up
    for claim in claims.claims:
        await world.collector.collect(claim)

    assert (await world.payment(invoice)).status is PaymentStatus.CANCELED
    assert world.sandbox.charges(invoice.invoice_id) == []


async def test_an_attempt_whose_plug_in_is_gone_holds_up_no_other(world: World) -> None:
    await world.attach("tok_timeout_after")
    orphan, other = await world.finalize(), await world.finalize()
    await world.collect()
    async with world.runtime.begin() as uow:
        attempt = (await world.attempts(orphan))[0]
        found = await uow.attempts.find(attempt.id)
        assert found is not None
        found.provider = "gone"
    await world.reconcile()

    assert (await world.payment(other)).status is PaymentStatus.SUCCEEDED
    assert (await world.payment(orphan)).status is PaymentStatus.UNKNOWN
    async with world.runtime.begin() as uow:
        found = await uow.attempts.find(attempt.id)
        assert found is not None
        found.provider = "sandbox"


async def test_of_an_invoice_that_is_paid_in_part_only_the_rest_is_collected(
    world: World,
) -> None:
    invoice = await world.finalize(amount=10_000)
    await world.take(an_invoice_partly_paid(invoice, 4_000))
    await world.attach()

    await world.collect()
    await world.invoice_paid(invoice)

    assert world.sandbox.amounts(invoice.invoice_id) == [6_000]
    books = await world.balances()
    assert books.pop("provider:sandbox") + books.pop("fees") == 6_000
    assert books == {"offline": 4_000, "billed": -10_000}


async def test_a_part_that_comes_while_the_whole_is_charged_goes_back(world: World) -> None:
    await world.attach("tok_timeout_after")
    invoice = await world.finalize(amount=10_000)
    await world.collect()
    assert (await world.payment(invoice)).status is PaymentStatus.UNKNOWN

    await world.take(an_invoice_partly_paid(invoice, 4_000))
    await world.reconcile()
    await world.invoice_paid(invoice)
    await world.run(schedule.send_refunds)

    payment = await world.payment(invoice)
    assert (payment.amount, payment.refunded) == (10_000, 4_000)
    books = await world.balances()
    assert books.pop("provider:sandbox") + books.pop("fees") == 6_000
    assert books == {"offline": 4_000, "billed": -10_000}


async def test_a_part_that_comes_while_a_card_is_declined_lessens_the_next_attempt(
    world: World,
) -> None:
    await world.attach("tok_fails_then_ok:1")
    invoice = await world.finalize(amount=10_000)
    async with world.runtime.begin() as uow:
        due = Due(utc_now(), world.runtime.database.platform)
        claims = await claim_due(
            uow,
            due,
            limit=10,
            only_urgent=False,
            owner=world.collector.owner,
            real_now=utc_now(),
            traffic=world.collector.traffic,
        )
    await world.take(an_invoice_partly_paid(invoice, 4_000))
    for claim in claims.claims:
        await world.collector.collect(claim)

    payment = await world.payment(invoice)
    assert (payment.status, payment.amount) == (PaymentStatus.FAILED, 6_000)
    await world.collect(at=utc_now() + timedelta(days=2))
    assert world.sandbox.amounts(invoice.invoice_id) == [6_000]


async def test_outside_the_providers_window_a_new_attempt_follows_under_a_new_key(
    world: World,
) -> None:
    await world.attach("tok_timeout_before")
    invoice = await world.finalize()
    await world.collect()
    (first,) = await world.attempts(invoice)
    long_ago = utc_now() - SandboxProvider.key_window - timedelta(minutes=1)
    async with world.runtime.begin() as uow:
        found = await uow.attempts.find(first.id)
        assert found is not None
        found.started_at = long_ago
    await world.reconcile()

    first, *others = await world.attempts(invoice)
    assert (first.status, others) == (AttemptStatus.CANCELED, [])
    assert world.sandbox.charges(invoice.invoice_id) == []
    await world.attach("tok_ok", make_default=True)
    await world.collect()
    first, second = await world.attempts(invoice)
    (charge,) = world.sandbox.charges(invoice.invoice_id)
    assert charge["key"] == str(second.id) != str(first.id)
    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED


class Silent(Slow):
    """A provider that answers nothing to anybody."""

    def __init__(self, settings: SandboxProviderSettings) -> None:
        super().__init__(settings)
        self.may_answer.set()
        self.times_asked: Counter[str] = Counter()

    async def look_up(self, *, key: str, reference: str | None = None) -> LookUp:
        del reference
        self.times_asked[key] += 1
        return Uncertain(reason="lost again")


async def test_what_the_provider_never_tells_waits_for_a_person_after_the_last_question(
    world: World,
) -> None:
    provider = Silent(SandboxProviderSettings())
    use(provider)
    await world.attach()
    invoice = await world.finalize()
    await world.collect()
    waits = []
    for _ in range(20):
        (attempt,) = await world.attempts(invoice)
        if attempt.ask_at is not None:
            waits.append(attempt.ask_at - utc_now())
        await world.reconcile_if_due(attempt.id)

    # After the lost answer itself, and after each question but the last.
    steps = [5, 15, *8 * [30], 120, 600, 3600, 21600, 86400]
    assert len(waits) == len(steps)
    for wait, step in zip(waits, steps, strict=True):
        assert timedelta(seconds=step - 60) < wait <= timedelta(seconds=1.1 * step)
    assert provider.times_asked[str(attempt.id)] == len(steps)
    (attempt,) = await world.attempts(invoice)
    assert (attempt.status, attempt.ask_at) == (AttemptStatus.UNKNOWN, None)
    assert (await world.payment(invoice)).status is PaymentStatus.UNKNOWN
    await world.collect()
    assert len(await world.attempts(invoice)) == 1  # never charged again out of `unknown`
    staff = world.issuer.of_staff("finance")
    shown = (await world.http.get("/v1/ops/payments/stuck", headers=staff)).json()["data"]
    (row,) = [row for row in shown if row["id"] == str(attempt.id)]
    assert "lost again" in row["reason"]


@pytest.mark.parametrize("paid_otherwise", [True, False])
async def test_a_charge_that_waits_for_the_payer_is_given_up_once_nothing_is_owed(
    world: World, paid_otherwise: bool
) -> None:
    """Rival ways to pay: the page at the bank may still be open."""
    await world.attach("tok_requires_action")
    invoice = await world.finalize()
    await world.collect()
    await world.take((an_invoice_paid if paid_otherwise else an_invoice_voided)(invoice))
    await world.reconcile()

    (charge,) = world.sandbox.charges(invoice.invoice_id)
    assert charge["status"] == "canceled"
    late = world.sandbox.post(f"/v1/charges/{charge['id']}/confirm", {"success": True})
    assert late["error"]["code"] == "nothing_to_confirm"
    assert (await world.payment(invoice)).status is PaymentStatus.CANCELED


async def test_who_holds_an_attempt_is_not_disturbed_before_its_deadline(world: World) -> None:
    provider = Slow(SandboxProviderSettings())
    use(provider)
    await world.attach()
    invoice = await world.finalize()
    running = asyncio.create_task(world.collect())
    await provider.was_asked.wait()
    await world.run(schedule.ask_providers)
    (attempt,) = await world.attempts(invoice)

    assert (attempt.status, attempt.asked) == (AttemptStatus.UNKNOWN, 0)
    assert attempt.owner == world.collector.owner
    provider.may_answer.set()
    await running


async def test_paying_by_hand_while_the_invoice_is_voided_waits_for_nobody_for_ever(
    world: World,
) -> None:
    """Both lock the payment and look at the invoice; a wrong order would have them both wait."""
    await world.attach()
    invoices = [await world.finalize(collect_automatically=False) for _ in range(12)]

    async def pay(number: int) -> int:
        answer = await world.http.post(
            f"/v1/invoices/{invoices[number].invoice_id}/pay",
            json={},
            headers={**world.member, "Idempotency-Key": f"race-{number}"},
        )
        return answer.status_code

    async def attach_and_void(number: int) -> None:
        await world.attach()
        await world.take(an_invoice_voided(invoices[number]))

    done = await asyncio.gather(
        *(pay(number) for number in range(12)), *(attach_and_void(number) for number in range(12))
    )
    assert set(done[:12]) <= {200, 409}
    await world.pay_everything()
    for invoice in invoices:
        charges = [c for c in world.sandbox.charges(invoice.invoice_id) if c["captured"]]
        assert all(charge["refunded"] == charge["captured"] for charge in charges)
        assert len(charges) <= 1
