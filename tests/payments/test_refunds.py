"""Money that goes back: never more than came, whoever asks at once."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from services.payments import schedule
from services.payments.consumers import refund_credit_note
from services.payments.domain.payments import Payment, RefundAboveCharge
from services.payments.tables import refunds
from services.payments.use_cases.refund_payments import claim_refunds, send_refund
from shared.clock import utc_now
from shared.events.invoicing import InvoiceFinalized
from shared.ids import new_id
from shared.money import Money
from tests.payments.factories import a_credit_note_issued
from tests.payments.world import World


async def a_paid_invoice(world: World, amount: int = 1000) -> tuple[InvoiceFinalized, Payment]:
    await world.attach()
    invoice = await world.finalize(amount=amount)
    await world.collect()
    await world.reconcile()
    await world.invoice_paid(invoice)
    return invoice, await world.payment(invoice)


async def ask(
    world: World, payment: Payment, key: str, amount: int | None = None
) -> httpx.Response:
    body: dict[str, Any] = {}
    if amount is not None:
        body["amount"] = {"amount": amount, "currency": "EUR"}
    return await world.http.post(
        f"/v1/payments/{payment.id}/refunds",
        json=body,
        headers={**world.finance, "Idempotency-Key": key},
    )


async def test_a_refund_is_sent_once_and_posted(world: World) -> None:
    invoice, payment = await a_paid_invoice(world)
    first = await ask(world, payment, "one", 400)
    again = await ask(world, payment, "one", 400)
    await world.run(schedule.send_refunds)

    assert first.status_code == 201
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert world.sandbox.charges(invoice.invoice_id)[0]["refunded"] == 400
    assert (await world.balances())["refunds"] == 400
    assert (await world.names())[-2:] == ["refund.created", "refund.succeeded"]


async def test_refunds_asked_for_at_once_never_exceed_the_charge(world: World) -> None:
    invoice, payment = await a_paid_invoice(world, amount=1000)
    answers = await asyncio.gather(
        *(ask(world, payment, f"key-{number}", 300) for number in range(12))
    )
    await world.run(schedule.send_refunds)

    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [422] * 9
    assert {a.json()["code"] for a in answers if a.status_code == 422} == {"refund-above-charge"}
    assert world.sandbox.charges(invoice.invoice_id)[0]["refunded"] == 900
    rest = await ask(world, payment, "rest")
    assert rest.json()["amount"] == {"amount": 100, "currency": "EUR"}


async def test_a_credit_note_sends_money_back_once(world: World) -> None:
    invoice, payment = await a_paid_invoice(world)
    note = a_credit_note_issued(invoice, refund=Money(250, "EUR"))
    for _ in range(2):
        async with world.runtime.begin() as uow:
            await refund_credit_note(uow, note)
    await world.run(schedule.send_refunds)

    assert world.sandbox.charges(invoice.invoice_id)[0]["refunded"] == 250
    assert (await world.payment(invoice)).refunded == 250
    created = next(b for b in await world.emitted() if b["type"] == "refund.created")
    assert created["data"]["reason"] == "credit_note"
    sent = (await world.emitted())[-1]
    assert sent["type"] == "refund.succeeded"
    assert sent["data"]["reason"] == "credit_note"
    assert sent["data"]["credit_note_id"] == str(note.credit_note_id)
    assert payment.id


async def test_a_credit_note_does_not_send_what_went_back_by_hand(world: World) -> None:
    invoice, payment = await a_paid_invoice(world)
    await ask(world, payment, "by hand", 800)
    note = a_credit_note_issued(invoice, refund=Money(1000, "EUR"))
    with pytest.raises(RefundAboveCharge, match=r"At most 2\.00 EUR"):
        async with world.runtime.begin() as uow:
            await refund_credit_note(uow, note)
    await comes_back(world, payment)
    # Replayed, now that nothing else gives it back.
    async with world.runtime.begin() as uow:
        await refund_credit_note(uow, note)
    await world.run(schedule.send_refunds)

    (charge,) = world.sandbox.charges(invoice.invoice_id)
    assert charge["refunded"] == 1000
    assert (await world.payment(invoice)).refunded == 1000


async def test_a_refund_whose_answer_is_lost_is_looked_up_and_not_sent_twice(
    world: World,
) -> None:
    invoice, payment = await a_paid_invoice(world)
    await ask(world, payment, "one", 100)
    async with world.runtime.begin() as uow:
        claimed = await claim_refunds(uow, limit=100, real_now=utc_now())
    (refund,) = [row for row in claimed if row.payment_id == payment.id]
    await send_refund(world.runtime.begin, refund)
    # The answer was written down; now the same again, as after a crash before that.
    await send_refund(world.runtime.begin, refund)

    assert world.sandbox.charges(invoice.invoice_id)[0]["refunded"] == 100
    assert (await world.balances())["refunds"] == 100


async def test_an_unpaid_payment_is_not_refunded(world: World) -> None:
    invoice = await world.finalize()
    payment = await world.payment(invoice)

    answer = await ask(world, payment, "one", 1)
    assert (answer.status_code, answer.json()["code"]) == (409, "payment-not-refundable")


async def test_a_member_cannot_refund_and_another_account_sees_nothing(world: World) -> None:
    _, payment = await a_paid_invoice(world)
    own = await world.http.post(
        f"/v1/payments/{payment.id}/refunds",
        json={},
        headers={**world.member, "Idempotency-Key": "k"},
    )
    stranger = world.issuer.of_account(payment.id)
    foreign = await world.http.get(f"/v1/payments/{payment.id}", headers=stranger)

    assert own.status_code == 403
    assert foreign.status_code == 404


async def test_what_a_bank_has_taken_back_does_not_go_back_again(world: World) -> None:
    invoice, payment = await a_paid_invoice(world)
    await ask(world, payment, "before", 300)
    await world.run(schedule.send_refunds)
    (charge,) = world.sandbox.charges(invoice.invoice_id)
    dispute = world.sandbox.post(f"/v1/charges/{charge['id']}/dispute", {})
    assert dispute["amount"] == 700
    await world.hear({"id": f"evt_{dispute['id']}", "type": "dispute.opened", "data": dispute})
    await world.run(schedule.work_off_webhooks)

    refused = await ask(world, payment, "one", 1)
    assert (refused.status_code, refused.json()["code"]) == (422, "refund-above-charge")
    assert "bank" in refused.json()["detail"]
    won = world.sandbox.post(f"/v1/disputes/{dispute['id']}/close", {"won": True})
    await world.hear({"id": f"evt_{dispute['id']}_w", "type": "dispute.won", "data": won})
    await world.run(schedule.work_off_webhooks)
    assert (await ask(world, payment, "two", 700)).status_code == 201
    await world.run(schedule.send_refunds)
    assert world.sandbox.charges(invoice.invoice_id)[0]["refunded"] == 1000


async def test_a_refund_that_comes_back_may_be_sent_again(world: World) -> None:
    invoice, payment = await a_paid_invoice(world)
    before = await world.balances()
    await ask(world, payment, "one", 1000)
    await world.run(schedule.send_refunds)
    (refund,) = [
        row
        for row in world.sandbox.get("/v1/refunds", limit=1000)["data"]
        if row["charge"] == world.sandbox.charges(invoice.invoice_id)[0]["id"]
    ]
    failed = world.sandbox.post(f"/v1/refunds/{refund['id']}/fail")
    for copy in range(2):
        await world.hear(
            {"id": f"evt_{refund['id']}_{copy}", "type": "refund.failed"} | {"data": failed}
        )
    await world.run(schedule.work_off_webhooks)

    assert (await world.names())[-3:] == ["refund.created", "refund.succeeded", "refund.failed"]
    assert await world.balances() == before
    assert (await world.payment(invoice)).refunded == 0
    again = await ask(world, payment, "two", 1000)
    assert again.status_code == 201
    await world.run(schedule.send_refunds)
    assert (await world.balances())["refunds"] == 1000


async def comes_back(world: World, payment: Payment) -> None:
    """The provider has sent the last refund of a payment, and tells that it came back."""
    await world.run(schedule.send_refunds)
    async with world.runtime.begin() as uow:
        sent = (
            await uow.session.execute(
                select(refunds.c.reference)
                .where(refunds.c.payment_id == payment.id)
                .order_by(refunds.c.id.desc())
            )
        ).first()
    assert sent
    failed = world.sandbox.post(f"/v1/refunds/{sent.reference}/fail")
    await world.hear({"id": f"evt_{sent.reference}", "type": "refund.failed", "data": failed})
    await world.run(schedule.work_off_webhooks)


async def forgotten(world: World) -> list[str]:
    """The failed refunds of this account that wait for a person."""
    shown = await world.http.get("/v1/ops/payments/stuck", headers=world.finance)
    return [
        row["id"]
        for row in shown.json()["data"]
        if row["kind"] == "failed_refund" and row["account_id"] == str(world.account_id)
    ]


async def attend(world: World, refund: str, how: str) -> httpx.Response:
    path = f"/v1/ops/payments/stuck/{refund}/{how}"
    headers = {**world.finance, "Idempotency-Key": f"{how}-{new_id()}"}
    return await world.http.post(path, headers=headers)


async def test_a_failed_refund_of_a_credit_note_is_made_anew_when_somebody_says_so(
    world: World,
) -> None:
    invoice, payment = await a_paid_invoice(world)
    note = a_credit_note_issued(invoice, refund=Money(250, "EUR"))
    async with world.runtime.begin() as uow:
        await refund_credit_note(uow, note)
    await comes_back(world, payment)
    [failed] = await forgotten(world)

    answers = await asyncio.gather(*(attend(world, failed, "ask") for _ in range(5)))
    # The news comes once more, as news does: the note has its refund.
    async with world.runtime.begin() as uow:
        await refund_credit_note(uow, note)
    await world.run(schedule.send_refunds)

    assert sorted(answer.status_code for answer in answers) == [204, 404, 404, 404, 404]
    assert await forgotten(world) == []
    assert (await world.payment(invoice)).refunded == 250
    assert world.sandbox.charges(invoice.invoice_id)[0]["refunded"] == 250
    last = (await world.emitted())[-1]
    assert (last["type"], last["data"]["reason"]) == ("refund.succeeded", "credit_note")
    assert last["data"]["credit_note_id"] == str(note.credit_note_id)
    assert last["data"]["refund_id"] != failed


async def test_a_failed_refund_whose_money_went_another_way_is_dismissed(world: World) -> None:
    _, payment = await a_paid_invoice(world)
    await ask(world, payment, "one", 1000)
    await comes_back(world, payment)
    [failed] = await forgotten(world)
    await ask(world, payment, "by hand", 400)

    above = await attend(world, failed, "ask")
    assert (above.status_code, above.json()["code"]) == (422, "refund-above-charge")
    assert await forgotten(world) == [failed]
    assert (await attend(world, failed, "dismiss")).status_code == 204
    assert await forgotten(world) == []
    again = await attend(world, failed, "dismiss")
    assert (again.status_code, again.json()["code"]) == (404, "nothing-stuck")


async def test_a_word_about_a_refund_that_arrived_changes_nothing(world: World) -> None:
    invoice, payment = await a_paid_invoice(world)
    await ask(world, payment, "one", 1000)
    await world.run(schedule.send_refunds)
    (refund,) = [
        row
        for row in world.sandbox.get("/v1/refunds", limit=1000)["data"]
        if row["charge"] == world.sandbox.charges(invoice.invoice_id)[0]["id"]
    ]
    # It says failed, and the provider, when asked, does not.
    await world.hear({"id": f"evt_{refund['id']}", "type": "refund.failed", "data": refund})
    await world.run(schedule.work_off_webhooks)

    assert (await world.payment(invoice)).refunded == 1000
    assert (await world.names())[-1] == "refund.succeeded"


async def test_a_refund_whose_plug_in_is_gone_holds_up_no_other(world: World) -> None:
    _, orphan = await a_paid_invoice(world)
    _, other = await a_paid_invoice(world)
    await ask(world, orphan, "orphan", 100)
    await ask(world, other, "other", 100)
    async with world.runtime.begin() as uow:
        await uow.session.execute(
            update(refunds).where(refunds.c.payment_id == orphan.id).values(provider="gone")
        )
    await world.run(schedule.send_refunds)
    async with world.runtime.begin() as uow:
        rows = await uow.session.execute(
            select(refunds.c.payment_id, refunds.c.status).where(
                refunds.c.payment_id.in_([orphan.id, other.id])
            )
        )
        assert {row.payment_id: row.status for row in rows} == {
            orphan.id: "pending",
            other.id: "succeeded",
        }
