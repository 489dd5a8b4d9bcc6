"""Webhooks in: verified, stored once, answered at once, true in any order."""

import asyncio
import json
import random
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import func, select

from services.payments import schedule
from services.payments.domain.payments import PaymentStatus
from services.payments.domain.webhooks import WebhookEvent
from services.payments.tables import webhook_events
from services.payments.use_cases.take_webhooks import KEPT, forget_webhooks
from shared.clock import utc_now
from tests.payments.world import World


def about(
    charge: dict[str, Any], kind: str = "charge.succeeded", number: int = 0
) -> dict[str, Any]:
    return {"id": f"evt_{charge['id']}_{number}", "type": kind, "data": charge}


async def stored(world: World, event_id: str) -> int:
    async with world.runtime.begin() as uow:
        count = await uow.session.scalar(
            select(func.count()).where(webhook_events.c.provider_event_id == event_id)
        )
        return int(count or 0)


async def test_a_webhook_settles_what_the_answer_did_not(world: World) -> None:
    await world.attach("tok_timeout_after")
    invoice = await world.finalize()
    await world.collect()
    (charge,) = world.sandbox.charges(invoice.invoice_id)
    answer = await world.hear(about(charge))
    await world.run(schedule.work_off_webhooks)
    await world.run(schedule.ask_providers)

    assert answer.status_code == 200
    assert (await world.payment(invoice)).status is PaymentStatus.SUCCEEDED


async def test_a_webhook_is_only_a_hint_and_the_provider_has_the_last_word(world: World) -> None:
    await world.attach("tok_requires_action")
    invoice = await world.finalize()
    await world.collect()
    (charge,) = world.sandbox.charges(invoice.invoice_id)
    await world.hear(about({**charge, "status": "succeeded", "captured": charge["amount"]}))
    await world.run(schedule.work_off_webhooks)
    await world.run(schedule.ask_providers)

    assert (await world.payment(invoice)).status is PaymentStatus.REQUIRES_ACTION


async def test_copies_that_arrive_at_once_are_stored_once(world: World) -> None:
    event = about({"id": f"ch_{random.random()}"})  # noqa: S311  (a name)
    answers = await asyncio.gather(*(world.hear(event) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert await stored(world, event["id"]) == 1


async def test_a_forged_one_is_refused_and_leaves_nothing(world: World) -> None:
    event = about({"id": "ch_forged"})
    answer = await world.hear(event, secret="whsec_guess")

    assert (answer.status_code, answer.json()["code"]) == (400, "webhook-signature-invalid")
    assert await stored(world, event["id"]) == 0


async def test_a_flood_of_forged_ones_reaches_no_database(world: World) -> None:
    """What a forged webhook costs is its hash: no connection, no transaction, no row."""
    pool = world.runtime.database.engine.sync_engine.pool
    taken: list[object] = []

    def count(*_: object) -> None:
        taken.append(None)

    sqlalchemy_event.listen(pool, "checkout", count)
    try:
        event_ = about({"id": "ch_flood"})
        answers = [await world.hear(event_, secret="whsec_guess") for _ in range(200)]
        unsigned = await world.http.post("/v1/webhooks/sandbox", content=b"{}")
        assert taken == []
        assert {answer.status_code for answer in (*answers, unsigned)} == {400}
        assert (await world.hear(event_)).status_code == 200
        assert len(taken) == 1  # a true one: one transaction
    finally:
        sqlalchemy_event.remove(pool, "checkout", count)


async def test_what_was_worked_off_keeps_nothing_of_the_payer_and_is_forgotten_in_time(
    world: World,
) -> None:
    told = about({"id": f"ch_{world.account_id}", "billing": {"email": "ada@example.com"}})
    await world.hear(told)
    assert "ada@example.com" in await _kept(world, told["id"])
    await world.run(schedule.work_off_webhooks)
    assert await _kept(world, told["id"]) == "{}"

    assert await world.run(schedule.drop_old_webhooks) == 0
    async with world.runtime.begin() as uow:
        later = utc_now() + KEPT + timedelta(minutes=1)
        assert await forget_webhooks(uow, limit=10_000, real_now=later) >= 1
    assert await stored(world, told["id"]) == 0


async def _kept(world: World, event_id: str) -> str:
    async with world.runtime.begin() as uow:
        body = await uow.session.scalar(
            select(webhook_events.c.body).where(webhook_events.c.provider_event_id == event_id)
        )
        return json.dumps(body)


async def test_what_keeps_a_webhook_from_being_worked_off_is_shown(world: World) -> None:
    await world.attach("tok_requires_action")
    invoice = await world.finalize()
    await world.collect()
    (charge,) = world.sandbox.charges(invoice.invoice_id)
    world.sandbox.post(f"/v1/charges/{charge['id']}/confirm", {"success": True})
    dispute = world.sandbox.post(f"/v1/charges/{charge['id']}/dispute", {})
    told = {"id": f"evt_{dispute['id']}", "type": "dispute.opened", "data": dispute}
    await world.hear(told)
    await world.run(schedule.work_off_webhooks)

    async with world.runtime.begin() as uow:
        statement = select(WebhookEvent).where(webhook_events.c.provider_event_id == told["id"])
        waiting = (await uow.session.scalars(statement)).one()
        assert waiting.trouble == "The disputed charge is not settled here yet."
        assert waiting.process_at is not None
        waiting.process_at = None  # as after the last of its tries
    staff = world.issuer.of_staff("finance")
    shown = (await world.http.get("/v1/ops/payments/stuck", headers=staff)).json()["data"]
    (row,) = [row for row in shown if row["id"] == str(waiting.id)]
    assert row["reason"] == "The disputed charge is not settled here yet."
    await world.reconcile()
    path = f"/v1/ops/payments/stuck/{waiting.id}/ask"
    assert (await world.http.post(path, headers=staff)).status_code == 204
    await world.run(schedule.work_off_webhooks)
    assert "dispute.opened" in await world.names()


async def test_a_payout_that_comes_back_is_posted_both_ways_in_any_order(world: World) -> None:
    await world.attach()
    await world.finalize(amount=70_000)
    await world.collect()
    (payout,) = world.sandbox.post("/v1/payouts")["data"]
    failed = world.sandbox.post(f"/v1/payouts/{payout['id']}/fail")
    before = await world.all_balances()
    for number, (kind, data) in enumerate(
        [("payout.failed", failed), ("payout.paid", payout), ("payout.failed", failed)]
    ):
        await world.hear({"id": f"evt_{payout['id']}_{number}", "type": kind, "data": data})
        await world.run(schedule.work_off_webhooks)
    entries = await world.http.get(
        "/v1/ledger/entries",
        params={"reference": f"sandbox:{payout['id']}"},
        headers=world.finance,
    )

    assert {row["kind"] for row in entries.json()["data"]} == {"payout", "payout_returned"}
    assert await world.all_balances() == {"bank": 0} | before


async def test_an_unknown_provider_and_a_huge_body_are_refused(world: World) -> None:
    unknown = await world.http.post("/v1/webhooks/nobody", content=b"{}")
    huge = await world.http.post("/v1/webhooks/sandbox", content=b"x" * 300_000)

    assert unknown.status_code == 422
    assert (huge.status_code, huge.json()["code"]) == (400, "webhook-too-large")


async def test_the_sandbox_reaches_us_with_duplicate_and_late_webhooks(world: World) -> None:
    async with world.taking_webhooks():
        await world.attach("tok_duplicate_webhook")
        first = await world.finalize()
        await world.collect()
        (charge,) = world.sandbox.charges(first.invoice_id)
        async with asyncio.timeout(10):
            while not await _heard(world, charge["id"]):  # noqa: ASYNC110  (another process)
                await asyncio.sleep(0.05)
    await world.run(schedule.work_off_webhooks)

    assert await _heard(world, charge["id"]) == 1
    assert (await world.names()).count("payment.succeeded") == 1


async def _heard(world: World, reference: str) -> int:
    async with world.runtime.begin() as uow:
        count = await uow.session.scalar(
            select(func.count()).where(webhook_events.c.reference == reference)
        )
        return int(count or 0)


async def test_a_dispute_moves_the_money_and_a_won_one_moves_it_back(world: World) -> None:
    await world.attach()
    invoice = await world.finalize(amount=5000)
    await world.collect()
    (charge,) = world.sandbox.charges(invoice.invoice_id)
    before = await world.balances()
    dispute = world.sandbox.post(f"/v1/charges/{charge['id']}/dispute", {})
    await world.hear({"id": f"evt_{dispute['id']}", "type": "dispute.opened", "data": dispute})
    await world.run(schedule.work_off_webhooks)
    assert (await world.balances())["disputed"] == 5000

    won = world.sandbox.post(f"/v1/disputes/{dispute['id']}/close", {"won": True})
    await world.hear({"id": f"evt_{dispute['id']}_w", "type": "dispute.won", "data": won})
    await world.run(schedule.work_off_webhooks)

    after = await world.balances()
    assert "disputed" not in after
    assert after["fees"] == before["fees"] + dispute["fee"]
    assert (await world.names())[-2:] == ["dispute.opened", "dispute.won"]
    end = (await world.emitted())[-1]["data"]
    assert end["invoice_id"] == str(invoice.invoice_id)
    assert end["amount"] == {"amount": 5000, "currency": "EUR"}
    assert end["reason"] == "fraudulent"


async def test_a_payout_and_a_renewed_card_are_written_down(world: World) -> None:
    method = await world.attach()
    await world.finalize(amount=50_000)
    await world.collect()
    (payout,) = [row for row in world.sandbox.post("/v1/payouts")["data"] if row]
    event = {"id": f"evt_{payout['id']}", "type": "payout.paid", "data": payout}
    await world.hear(event)
    await world.hear(event)
    async with world.runtime.begin() as uow:
        kept = await uow.methods.get(method)
    view = world.sandbox.post(f"/v1/payment_methods/{kept.reference}/network_update")
    await world.hear({"id": f"evt_{method}", "type": "payment_method.updated", "data": view})
    await world.run(schedule.work_off_webhooks)

    entries = await world.http.get(
        "/v1/ledger/entries",
        params={"reference": f"sandbox:{payout['id']}"},
        headers=world.finance,
    )
    assert len(entries.json()["data"]) == 1
    async with world.runtime.begin() as uow:
        assert (await uow.methods.get(method)).exp_year == 2044
    assert (await world.names())[-1] == "payment_method.updated"


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],  # an example takes a second: no shrinking
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
async def test_webhooks_shuffled_and_repeated_end_in_the_same_books(
    world: World, data: st.DataObject
) -> None:
    """Whatever the order and however many copies: the books say what the provider says."""
    await world.attach("tok_requires_action", make_default=True)
    invoice = await world.finalize(amount=2000)
    await world.collect()
    (charge,) = world.sandbox.charges(invoice.invoice_id)
    confirmed = world.sandbox.post(f"/v1/charges/{charge['id']}/confirm", {"success": True})
    dispute = world.sandbox.post(f"/v1/charges/{charge['id']}/dispute", {})
    lost = world.sandbox.post(f"/v1/disputes/{dispute['id']}/close", {"won": False})
    told = [
        about(charge, "charge.requires_action", 1),
        about(confirmed, "charge.succeeded", 2),
        {"id": f"evt_{dispute['id']}_1", "type": "dispute.opened", "data": dispute},
        {"id": f"evt_{dispute['id']}_2", "type": "dispute.lost", "data": lost},
    ]
    deliveries = data.draw(st.permutations(told * 2))
    rounds = data.draw(st.sets(st.integers(0, len(deliveries) - 1)))
    balances = await world.balances()

    for number, event in enumerate(deliveries):
        assert (await world.hear(event)).status_code == 200
        if number in rounds:
            await world.run(schedule.work_off_webhooks)
            await world.run(schedule.ask_providers)
    # A dispute that was heard of before its charge comes again once its time has come.
    await world.webhooks_are_due()
    await world.run(schedule.work_off_webhooks)
    await world.run(schedule.ask_providers)
    await world.webhooks_are_due()
    await world.run(schedule.work_off_webhooks)

    after = await world.balances()
    moved = {name: after.get(name, 0) - balances.get(name, 0) for name in {*after, *balances}}
    fees = confirmed["fee"] + dispute["fee"]
    assert {name: amount for name, amount in moved.items() if amount} == {
        "provider:sandbox": -fees,
        "fees": fees,
        "clearing": -2000,
        "dispute_losses": 2000,
    }
