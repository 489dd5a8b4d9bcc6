"""What invoicing does when another service reports something."""

from services.invoicing.domain.payment import Means
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases import bill_subscription as billing
from services.invoicing.use_cases.bill_token_order import bill_token_order, refund_token_order
from services.invoicing.use_cases.count_returned import count_returned
from services.invoicing.use_cases.receive_payment import receive_payment
from services.invoicing.use_cases.take_back_start import take_back_change, take_back_start
from services.invoicing.use_cases.take_in_account import forget_account, take_in_account
from shared.events.auth import AccountClosed, AccountRegistered, AccountUpdated
from shared.events.payments import (
    DisputeEvent,
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    PaymentSucceeded,
    RefundCreated,
    RefundEvent,
    RefundFailed,
    RefundSucceeded,
)
from shared.events.subscriptions import (
    Billable,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionChangeLapsed,
    SubscriptionChangePending,
    SubscriptionExpired,
    SubscriptionRenewed,
    SubscriptionResumed,
    SubscriptionStarted,
    SubscriptionTrialEnded,
    SubscriptionUsageBilled,
    TokensOrdered,
    TokensRefunded,
)
from shared.messaging.consumers import Consumers

consumers = Consumers("invoicing")


@consumers.handler(
    on=[
        SubscriptionStarted,
        SubscriptionTrialEnded,
        SubscriptionRenewed,
        SubscriptionUsageBilled,
        SubscriptionChanged,
        SubscriptionChangePending,
        SubscriptionChangeLapsed,
        SubscriptionResumed,
        SubscriptionCanceled,
        SubscriptionExpired,
    ],
    ordered="subscription",
    prepare=billing.prepare_billing,
)
async def bill_subscription(
    uow: InvoicingUnitOfWork, event: Billable | SubscriptionExpired | SubscriptionChangeLapsed
) -> None:
    """What a subscription says is owed becomes an invoice; what never began owes nothing."""
    if isinstance(event, SubscriptionExpired):
        # A start that was paid just before is not over: its payment reinstates it.
        await take_back_start(uow, event, refund=False)
        return
    if isinstance(event, SubscriptionChangeLapsed):
        await take_back_change(uow, event)
        return
    if isinstance(event, SubscriptionCanceled) and event.previous_status == "incomplete":
        await take_back_start(uow, event, refund=True)
    await billing.bill_subscription(uow, event)


@consumers.handler(on=[TokensOrdered])
async def bill_tokens(uow: InvoicingUnitOfWork, event: TokensOrdered) -> None:
    """A purchase of tokens becomes an invoice. Commutative: an order is billed once."""
    await bill_token_order(uow, event)


@consumers.handler(on=[TokensRefunded])
async def refund_tokens(uow: InvoicingUnitOfWork, event: TokensRefunded) -> None:
    """An unused purchase is credited. Commutative: it waits for the order's invoice."""
    await refund_token_order(uow, event)


@consumers.handler(on=[PaymentSucceeded])
async def count_payment(uow: InvoicingUnitOfWork, event: PaymentSucceeded) -> None:
    """Money came for an invoice. Commutative: each payment counts once, in any order."""
    await receive_payment(
        uow,
        event.invoice_id,
        payment_id=event.payment_id,
        amount=event.amount,
        means=Means.PROVIDER,
        at=event.occurred_at,
    )


@consumers.handler(
    on=[
        RefundCreated,
        RefundSucceeded,
        RefundFailed,
        DisputeOpened,
        DisputeWon,
        DisputeLost,
    ]
)
async def count_returned_money(uow: InvoicingUnitOfWork, event: RefundEvent | DisputeEvent) -> None:
    """Money goes back. Commutative: of each refund and dispute the later sequence wins."""
    await count_returned(uow, event)


@consumers.handler(on=[AccountRegistered, AccountUpdated, AccountClosed])
async def know_account(
    uow: InvoicingUnitOfWork, event: AccountRegistered | AccountUpdated | AccountClosed
) -> None:
    """Where an account is. Commutative: a later sequence wins."""
    if isinstance(event, AccountClosed):
        await forget_account(uow, event)
    else:
        await take_in_account(uow, event)
