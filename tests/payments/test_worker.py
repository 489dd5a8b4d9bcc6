"""The worker whole: events in over the broker, charges out, events back."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from services.payments.main import service
from shared.clock import utc_now
from shared.context import current_cause
from shared.events.base import Event
from shared.events.payments import PaymentCanceled, PaymentSucceeded
from shared.ids import new_id
from shared.messaging.envelope import outbox_row
from tests.eventlog import EventLog, emptied, listening
from tests.harness import Running, running
from tests.payments.conftest import Own
from tests.payments.factories import an_invoice_finalized, an_invoice_paid, an_invoice_voided
from tests.tokens import TokenIssuer


@pytest.fixture
async def events_here(own: Own) -> AsyncIterator[EventLog]:
    """Its queues are those of every deployment on this broker: they begin empty."""
    await emptied(own.deployment.broker_url, service.consumers.bindings())
    async with listening(own.deployment.broker_url) as log:
        yield log


async def attach(to: Running, issuer: TokenIssuer, account_id: UUID) -> None:
    answer = await to.http.post(
        "/v1/payment-methods", json={"token": "tok_ok"}, headers=issuer.of_account(account_id)
    )
    assert answer.status_code == 201


async def publish(log: EventLog, event: Event) -> None:
    await log.publish(outbox_row(event, current_cause())["body"])


async def test_an_invoice_is_collected_once_however_often_it_is_reported(
    own: Own, events_here: EventLog, issuer: TokenIssuer
) -> None:
    account_id = new_id()
    async with running(service, own.deployment, issuer) as worker:
        await attach(worker, issuer, account_id)
        invoice = an_invoice_finalized(account_id=account_id, occurred_at=utc_now())
        await publish(events_here, invoice)
        await publish(events_here, invoice)

        paid = await events_here.next(PaymentSucceeded, about=account_id)

        assert paid.amount == invoice.amount_due
        await publish(events_here, an_invoice_paid(invoice, payment_id=paid.payment_id))
        assert own.sandbox.taken(invoice.invoice_id) == 1


async def test_an_invoice_that_is_voided_in_the_batch_that_brings_it_is_not_collected(
    own: Own, events_here: EventLog, issuer: TokenIssuer
) -> None:
    account_id = new_id()
    async with running(service, own.deployment, issuer, worker=False) as api:
        await attach(api, issuer, account_id)
    invoice = an_invoice_finalized(account_id=account_id, occurred_at=utc_now())
    # Nobody works yet: both wait, and are taken together.
    await publish(events_here, invoice)
    await publish(events_here, an_invoice_voided(invoice))

    async with running(service, own.deployment, issuer):
        canceled = await events_here.next(PaymentCanceled, about=account_id)

    assert canceled.invoice_id == invoice.invoice_id
    assert own.sandbox.taken(invoice.invoice_id) == 0
