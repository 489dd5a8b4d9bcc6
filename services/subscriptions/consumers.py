"""What subscriptions does when another service reports something."""

from uuid import UUID

from sqlalchemy.dialects.postgresql import insert as upsert

from services.subscriptions import tables
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.cancel_subscription import cancel_all
from services.subscriptions.use_cases.know_account import (
    know_account,
    know_payment_method,
    know_project,
)
from services.subscriptions.use_cases.run_test_clock import hear_report
from services.subscriptions.use_cases.settle_invoice import InvoiceNews, settle_invoice
from services.subscriptions.use_cases.spend_tokens import drop_order, grant_tokens
from shared.context import current_cause
from shared.events.auth import (
    AccountClosed,
    AccountRegistered,
    AccountUpdated,
    ProjectActivated,
    ProjectArchived,
    ProjectCreated,
)
from shared.events.clocks import TestClockReported
from shared.events.invoicing import (
    InvoiceEvent,
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoiceVoided,
)
from shared.events.payments import (
    DunningExhausted,
    DunningStarted,
    PaymentMethodAttached,
    PaymentMethodDetached,
)
from shared.messaging.consumers import Consumers
from shared.messaging.envelope import Envelope

consumers = Consumers("subscriptions")


@consumers.handler(
    on=[
        InvoiceFinalized,
        InvoicePaid,
        InvoiceVoided,
        InvoiceMarkedUncollectible,
        DunningStarted,
        DunningExhausted,
    ]
)
async def follow_invoice(uow: SubscriptionsUnitOfWork, event: InvoiceNews) -> None:
    """Activate, mark past due, or end. Commutative: all that is noted of an invoice only grows."""
    if not isinstance(event, InvoiceEvent) or event.subscriptions:
        await settle_invoice(uow, event)
    elif isinstance(event, InvoicePaid) and event.order_id is not None:
        await grant_tokens(uow, event.order_id, now=event.occurred_at)
    elif isinstance(event, InvoiceVoided) and event.order_id is not None:
        await drop_order(uow, event.order_id)


@consumers.handler(on=[AccountRegistered, AccountUpdated, AccountClosed])
async def follow_account(
    uow: SubscriptionsUnitOfWork, event: AccountRegistered | AccountUpdated | AccountClosed
) -> None:
    """Where an account is, and its end. Commutative: a later sequence wins."""
    await know_account(uow, event)
    if isinstance(event, AccountClosed):
        held = await uow.subscriptions.list_open_of(event.account_id)
        await cancel_all(uow, list(held), now=event.occurred_at)


@consumers.handler(on=[PaymentMethodAttached, PaymentMethodDetached])
async def follow_payment_method(
    uow: SubscriptionsUnitOfWork, event: PaymentMethodAttached | PaymentMethodDetached
) -> None:
    """Whether an account can pay. Commutative: a later sequence wins."""
    await know_payment_method(uow, event)


@consumers.handler(on=[ProjectCreated, ProjectActivated, ProjectArchived])
async def follow_project(
    uow: SubscriptionsUnitOfWork, event: ProjectCreated | ProjectActivated | ProjectArchived
) -> None:
    """Whether subscriptions may belong to a project. Commutative: a later sequence wins."""
    await know_project(uow, event)


@consumers.handler(on=[TestClockReported])
async def drive_test_clock(uow: SubscriptionsUnitOfWork, event: TestClockReported) -> None:
    """Simulated time goes on when all services rest. Commutative: rounds carry their revision."""
    await hear_report(uow, event)


@consumers.handler(every=True)
async def write_timeline(uow: SubscriptionsUnitOfWork, event: Envelope) -> None:
    """Every event of the system, for the timeline of a subscription. Commutative: it only adds."""
    if event.type.startswith("test_clock."):
        return
    cause = current_cause()
    await uow.session.execute(
        upsert(tables.timeline)
        .values(
            event_id=event.id,
            name=event.type,
            account_id=event.account_id,
            subscription_id=_subscription_of(event),
            subject=event.subject,
            sequence=event.sequence,
            occurred_at=event.occurred_at,
            correlation_id=cause.correlation_id,
            causation_id=cause.event_caused_by,
            data=event.data,
        )
        .on_conflict_do_nothing()
    )


def _subscription_of(event: Envelope) -> UUID | None:
    """The one that it is about, if it is about one."""
    try:
        return UUID(event.data["subscription_id"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
