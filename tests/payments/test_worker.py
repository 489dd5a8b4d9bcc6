"""The worker whole: events in over the broker, charges out, events back."""

from collections.abc import AsyncIterator

import pytest

from services.payments.main import service
from shared.clock import utc_now
from shared.context import current_cause
from shared.events.base import Event
from shared.events.payments import PaymentCanceled, PaymentSucceeded
from shared.ids import new_id
from shared.messaging.envelope import outbox_row
from tests.eventlog import EventLog, listening
from tests.harness import Deployment, Running, running
from tests.payments.factories import an_invoice_finalized, an_invoice_paid, an_invoice_voided
from tests.payments.servers import Sandbox
from tests.tokens import TokenIssuer


@pytest.fixture
async def events_here(payments_deployment: Deployment) -> AsyncIterator[EventLog]:
    async with listening(payments_deployment.broker_url) as log:
        yield log


@pytest.fixture
async def worker(
    payments_deployment: Deployment, sandbox: Sandbox, issuer: TokenIssuer
) -> AsyncIterator[Running]:
    del sandbox
    async with running(service, payments_deployment, issuer) as made:
        yield made


async def publish(log: EventLog, event: Event) -> None:
    await log.publish(outbox_row(event, current_cause())["body"])


async def test_an_invoice_is_collected_once_however_often_it_is_reported(
    worker: Running, events_here: EventLog, issuer: TokenIssuer, sandbox: Sandbox
) -> None:
    account_id = new_id()
    attached = await worker.http.post(
        "/v1/payment-methods", json={"token": "tok_ok"}, headers=issuer.of_account(account_id)
    )
    assert attached.status_code == 201
    invoice = an_invoice_finalized(account_id=account_id, occurred_at=utc_now())
    await publish(events_here, invoice)
    await publish(events_here, invoice)

    paid = await events_here.next(PaymentSucceeded, about=account_id)

    assert paid.amount == invoice.amount_due
    await publish(events_here, an_invoice_paid(invoice, payment_id=paid.payment_id))
    assert sandbox.taken(invoice.invoice_id) == 1


async def test_an_invoice_that_is_voided_in_the_batch_that_brings_it_is_not_collected(
    payments_deployment: Deployment,
    events_here: EventLog,
    issuer: TokenIssuer,
    sandbox: Sandbox,
) -> None:
    account_id = new_id()
    async with running(service, payments_deployment, issuer, worker=False) as api:
        attached = await api.http.post(
            "/v1/payment-methods", json={"token": "tok_ok"}, headers=issuer.of_account(account_id)
        )
        assert attached.status_code == 201
    invoice = an_invoice_finalized(account_id=account_id, occurred_at=utc_now())
    # Nobody works yet: both wait, and are taken together.
    await publish(events_here, invoice)
    await publish(events_here, an_invoice_voided(invoice))

    async with running(service, payments_deployment, issuer):
        canceled = await events_here.next(PaymentCanceled, about=account_id)

    assert canceled.invoice_id == invoice.invoice_id
    assert sandbox.taken(invoice.invoice_id) == 0
