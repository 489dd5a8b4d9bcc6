"""Ways to pay over their life: confirmed, warned of, renewed, and tried again when fresh."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from services.payments import schedule
from services.payments.domain.methods import PaymentMethod
from services.payments.domain.payments import PaymentStatus
from services.payments.providers import use
from services.payments.providers.base import (
    ActionRequired,
    Charged,
    ChargeOutcome,
    ChargeRequest,
    LookUp,
    Method,
)
from services.payments.providers.sandbox import SandboxProvider, SandboxProviderSettings
from shared.ids import new_id
from shared.money import Money
from tests.payments.factories import NOW
from tests.payments.world import World


async def shown(world: World, method: UUID) -> dict[str, Any]:
    answer = await world.http.get(f"/v1/payment-methods/{method}", headers=world.member)
    body: dict[str, Any] = answer.json()
    return body


async def kept(world: World, method: UUID) -> PaymentMethod:
    async with world.runtime.begin() as uow:
        return await uow.methods.get(method)


async def renewed(world: World, method: UUID) -> None:
    """The card network sends a new expiry date."""
    reference = (await kept(world, method)).reference
    view = world.sandbox.post(f"/v1/payment_methods/{reference}/network_update")
    event = {"id": f"evt_{method}_renewed", "type": "payment_method.updated", "data": view}
    await world.hear(event)
    await world.run(schedule.work_off_webhooks)


async def test_a_card_that_has_to_be_confirmed_says_so_until_its_owner_did(world: World) -> None:
    method = await world.attach("tok_confirm_first")
    waiting = await shown(world, method)
    assert waiting["next_action"]["type"] == "redirect"
    assert waiting["next_action"]["url"].startswith(world.sandbox.url)

    reference = (await kept(world, method)).reference
    view = world.sandbox.post(f"/v1/payment_methods/{reference}/confirm")
    told = {"id": f"evt_{method}", "type": "payment_method.confirmed", "data": view}
    await world.hear(told)
    await world.hear(told)
    await world.run(schedule.work_off_webhooks)
    assert (await shown(world, method))["next_action"] is None
    invoice = await world.finalize()
    await world.collect()
    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED


async def test_a_card_that_was_not_confirmed_asks_at_its_charge(world: World) -> None:
    await world.attach("tok_confirm_first")
    invoice = await world.finalize()
    await world.collect()

    assert (await world.payment(invoice)).status is PaymentStatus.REQUIRES_ACTION


async def test_the_owner_of_the_default_card_is_told_once_a_month_before_it_expires(
    world: World,
) -> None:
    default, spare = await world.attach(), await world.attach()
    expires = (await kept(world, default)).expires_at
    assert expires is not None
    month_before = expires - timedelta(days=30)
    async with world.runtime.begin() as uow:
        assert await schedule._next_warning(uow, world.account_id) == month_before

    assert await world.run(schedule.warn_of_expiries, at=month_before - timedelta(seconds=1)) == 0
    await world.set_clock(month_before)
    await world.run(schedule.warn_of_expiries, at=month_before)
    await world.run(schedule.warn_of_expiries, at=month_before + timedelta(days=1))
    warnings = [e["data"] for e in await world.emitted() if e["type"] == "payment_method.expiring"]
    assert [warning["payment_method_id"] for warning in warnings] == [str(default)]
    assert (warnings[0]["exp_month"], warnings[0]["exp_year"]) == (12, 2040)

    # The spare becomes the one that is charged: now its owner has to know.
    await world.http.post(f"/v1/payment-methods/{spare}/default", headers=world.member)
    await world.run(schedule.warn_of_expiries, at=month_before + timedelta(days=2))
    warnings = [e["data"] for e in await world.emitted() if e["type"] == "payment_method.expiring"]
    assert [w["payment_method_id"] for w in warnings] == [str(default), str(spare)]


async def test_a_renewed_card_is_not_warned_of_and_an_older_word_changes_nothing(
    world: World,
) -> None:
    method = await world.attach()
    month_before = (await kept(world, method)).warn_at
    assert month_before is not None
    await renewed(world, method)

    assert await world.run(schedule.warn_of_expiries, at=month_before) == 0
    assert (await kept(world, method)).exp_year == 2044
    reference = (await kept(world, method)).reference
    old = {"id": reference, "brand": "b", "last4": "4242", "exp_month": 1, "exp_year": 2041}
    await world.hear({"id": f"evt_{method}_old", "type": "payment_method.updated", "data": old})
    await world.run(schedule.work_off_webhooks)
    assert (await kept(world, method)).exp_year == 2044
    assert (await world.names()).count("payment_method.updated") == 1


async def test_what_failed_for_an_expired_card_is_tried_at_once_when_the_network_renews_it(
    world: World,
) -> None:
    method = await world.attach("tok_expired_card")
    await world.set_clock(NOW)
    invoice = await world.finalize(occurred_at=NOW)
    await world.collect(at=NOW)
    assert (await world.payment(invoice)).due_at is None
    await renewed(world, method)

    payment = await world.payment(invoice)
    assert payment.due_at is not None
    assert payment.payment_method_id == method
    await world.collect(at=payment.due_at)
    assert len(await world.attempts(invoice)) == 2


async def test_a_fresh_card_retries_at_once_and_its_mails_come_in_order(world: World) -> None:
    """Declined, asked for again, and only with the money there the good news."""
    await world.attach("tok_expired_card")
    await world.set_clock(NOW)
    invoice = await world.finalize(occurred_at=NOW)
    await world.collect(at=NOW)
    await world.set_clock(NOW + timedelta(days=2))
    fresh = await world.attach("tok_ok")
    assert (await world.payment(invoice)).due_at == NOW + timedelta(days=2)
    await world.collect(at=NOW + timedelta(days=2))

    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED
    first, second = await world.attempts(invoice)
    assert (first.decline_class, second.payment_method_id) == ("new_card", fresh)
    assert await world.names() == [
        "payment_method.attached",
        "payment.created",
        "payment.failed",
        "dunning.started",
        "payment_method.attached",
        "payment.succeeded",
        "dunning.recovered",
    ]


@pytest.mark.parametrize("then", ["cancel", "unpaid", "pause"])
async def test_what_follows_is_what_the_plan_says(world: World, then: str) -> None:
    await world.attach("tok_insufficient_funds")
    await world.set_clock(NOW)
    invoice = await world.finalize(occurred_at=NOW, dunning={"days": [2], "then": then})
    await world.collect(at=NOW)
    assert (await world.payment(invoice)).due_at == NOW + timedelta(days=2)
    await world.set_clock(NOW + timedelta(days=2))
    await world.collect(at=NOW + timedelta(days=2))

    exhausted = (await world.emitted())[-1]
    assert exhausted["type"] == "dunning.exhausted"
    assert exhausted["data"]["then"] == then
    # What the plan gave up, nobody tries again by itself, with a fresh card neither.
    await world.attach("tok_ok")
    assert (await world.payment(invoice)).due_at is None


class WithSecrets(SandboxProvider):
    """A provider whose own script in the page does the confirming, as Stripe's does."""

    async def attach(self, *, key: str, token: str, account: str) -> Method:
        method = await super().attach(key=key, token=token, account=account)
        return replace(method, action=ActionRequired(reference="seti", client_secret=SETUP_SECRET))

    async def charge(self, request: ChargeRequest) -> ChargeOutcome:
        return ActionRequired(reference=f"pi_{request.key}", client_secret=PAYMENT_SECRET)

    async def look_up(self, *, key: str, reference: str | None = None) -> LookUp:
        del key
        return Charged(reference=str(reference), amount=Money(1999, "EUR"))


SETUP_SECRET, PAYMENT_SECRET = "seti_1_secret_canary", "pi_1_secret_canary"


async def test_what_the_providers_script_wants_is_shown_to_the_account_alone_and_dropped_when_done(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    use(WithSecrets(SandboxProviderSettings(url=world.sandbox.url)))
    method = await world.attach()
    assert (await shown(world, method))["next_action"] == {
        "type": "client_secret",
        "url": None,
        "client_secret": SETUP_SECRET,
    }
    invoice = await world.finalize()
    await world.collect()
    payment = await world.payment(invoice)
    answer = await world.http.get(f"/v1/payments/{payment.id}", headers=world.member)
    assert answer.json()["next_action"]["client_secret"] == PAYMENT_SECRET
    stranger = world.issuer.of_account(new_id())
    assert (await world.http.get(f"/v1/payments/{payment.id}", headers=stranger)).status_code == 404

    await world.reconcile()
    answer = await world.http.get(f"/v1/payments/{payment.id}", headers=world.member)
    assert answer.json()["status"] == "succeeded"
    assert answer.json()["next_action"] is None
    (attempt,) = await world.attempts(invoice)
    assert attempt.client_secret is None
    told = json.dumps(await world.emitted()) + "".join(capsys.readouterr())
    assert "canary" not in told
