"""The HTTP surface: who may, what is refused, and what a repeat gets."""

from uuid import UUID

import pytest

from shared.ids import new_id
from tests.payments.factories import an_invoice_voided
from tests.payments.world import World


async def test_the_first_method_is_the_default_and_another_may_become_it(world: World) -> None:
    first, second = await world.attach(), await world.attach()

    async def defaults() -> list[UUID]:
        listed = await world.http.get("/v1/payment-methods", headers=world.member)
        return [UUID(row["id"]) for row in listed.json()["data"] if row["is_default"]]

    assert await defaults() == [first]
    changed = await world.http.post(f"/v1/payment-methods/{second}/default", headers=world.member)
    assert changed.json()["is_default"] is True
    assert await defaults() == [second]
    gone = await world.http.delete(f"/v1/payment-methods/{second}", headers=world.member)
    assert gone.status_code == 204
    assert await defaults() == [first]
    missing = await world.http.get(f"/v1/payment-methods/{second}", headers=world.member)
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"token": "4242424242424242"}, "token"),
        ({"token": "tok_nonsense"}, "token"),
        ({"token": "tok_ok", "provider": "nobody"}, "provider"),
        ({"token": "tok_ok", "cvc": "123"}, "cvc"),
        ({}, "token"),
    ],
)
async def test_what_is_no_token_is_refused(world: World, body: dict[str, str], field: str) -> None:
    answer = await world.http.post("/v1/payment-methods", json=body, headers=world.member)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert "4242424242424242" not in answer.text


async def test_a_repeated_attach_is_one_method(world: World) -> None:
    headers = {**world.member, "Idempotency-Key": "attach-once"}
    first = await world.http.post("/v1/payment-methods", json={"token": "tok_ok"}, headers=headers)
    again = await world.http.post("/v1/payment-methods", json={"token": "tok_ok"}, headers=headers)

    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_mere_member_reads_and_does_not_change(world: World) -> None:
    member = world.issuer.of_account(world.account_id, role="member")
    refused = await world.http.post("/v1/payment-methods", json={"token": "tok_ok"}, headers=member)

    assert refused.status_code == 403
    assert (await world.http.get("/v1/payments", headers=member)).status_code == 200
    assert (await world.http.get("/v1/payments")).status_code == 401


async def test_another_account_sees_and_touches_nothing(world: World) -> None:
    method = await world.attach()
    invoice = await world.finalize()
    await world.collect()
    payment = await world.payment(invoice)
    stranger = {**world.issuer.of_account(new_id()), "Idempotency-Key": "k"}

    for path in (f"/v1/payments/{payment.id}", f"/v1/payment-methods/{method}"):
        assert (await world.http.get(path, headers=stranger)).status_code == 404
    assert (
        await world.http.delete(f"/v1/payment-methods/{method}", headers=stranger)
    ).status_code == 404
    pay = await world.http.post(f"/v1/invoices/{invoice.invoice_id}/pay", json={}, headers=stranger)
    assert pay.status_code == 404
    assert (await world.http.get("/v1/payments", headers=stranger)).json()["data"] == []


async def test_paying_needs_a_key_and_something_to_pay(world: World) -> None:
    await world.attach()
    invoice = await world.finalize()
    path = f"/v1/invoices/{invoice.invoice_id}/pay"
    keyed = {**world.member, "Idempotency-Key": "pay-1"}
    assert (await world.http.post(path, json={}, headers=world.member)).status_code == 400
    paid = await world.http.post(path, json={}, headers=keyed)
    assert (paid.status_code, paid.json()["status"]) == (200, "succeeded")
    again = await world.http.post(path, json={}, headers=keyed)
    assert again.json() == paid.json()

    keyed["Idempotency-Key"] = "pay-2"
    refused = await world.http.post(path, json={}, headers=keyed)
    assert (refused.status_code, refused.json()["code"]) == (409, "payment-not-collectible")
    assert world.sandbox.taken(invoice.invoice_id) == 1

    voided = await world.finalize()
    await world.take(an_invoice_voided(voided))
    gone = await world.http.post(
        f"/v1/invoices/{voided.invoice_id}/pay",
        json={},
        headers={**world.member, "Idempotency-Key": "pay-3"},
    )
    assert gone.status_code == 409


async def test_a_payment_shows_its_attempts(world: World) -> None:
    await world.attach("tok_fails_then_ok:1")
    invoice = await world.finalize()
    await world.collect()
    payment = await world.payment(invoice)
    shown = (await world.http.get(f"/v1/payments/{payment.id}", headers=world.member)).json()

    assert shown["status"] == "failed"
    assert shown["decline_class"] == "retry_later"
    assert shown["next_attempt_at"] is not None
    assert [attempt["status"] for attempt in shown["attempts"]] == ["failed"]
    assert shown["attempts"][0]["decline_code"] == "insufficient_funds"
