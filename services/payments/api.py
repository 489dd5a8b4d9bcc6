"""The HTTP surface of payments."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from pydantic import Field

from services.payments.collector import Collector
from services.payments.domain.methods import PaymentMethodNotFound
from services.payments.domain.payments import (
    PaymentNotCollectible,
    PaymentNotFound,
    PaymentNotRefundable,
    PaymentStatus,
    RefundAboveCharge,
)
from services.payments.domain.refunds import RefundReason
from services.payments.providers import ProviderUnknown, provider
from services.payments.providers.base import ForgedWebhook, Method, MethodRefused
from services.payments.queries import ledger, methods, payments
from services.payments.queries.ledger import BalancesView, EntryView
from services.payments.queries.methods import PaymentMethodView
from services.payments.queries.payments import PaymentView, RefundView
from services.payments.repository import PaymentsUnitOfWork
from services.payments.settings import PaymentsSettings
from services.payments.use_cases.keep_payment_methods import (
    attach_payment_method,
    detach_payment_method,
    prefer_payment_method,
)
from services.payments.use_cases.pay_invoice import pay_invoice
from services.payments.use_cases.refund_payments import request_refund
from services.payments.use_cases.take_webhooks import store_webhook
from shared.clock import utc_now
from shared.errors import BadRequest, Unavailable
from shared.ids import new_id
from shared.money import Money
from shared.runtime import Runtime
from shared.web import (
    Edge,
    Instant,
    Page,
    PageRequest,
    Reading,
    RequestModel,
    Router,
    command,
    for_role,
    for_staff,
    keyed_command,
    listing,
    page_request,
)
from shared.web import problems as refusals
from shared.web import reading as read

router = Router()

Command = Annotated[Edge[PaymentsUnitOfWork], Depends(command)]
KeyedCommand = Annotated[Edge[PaymentsUnitOfWork], Depends(keyed_command)]
Read = Annotated[Reading[PaymentsUnitOfWork], Depends(read)]
Listing = Annotated[Reading[PaymentsUnitOfWork], Depends(listing)]
Paging = Annotated[PageRequest, Depends(page_request)]

#: Whoever may spend the account's money. Support looks, and does not.
PAYER = for_role("admin", "billing", staff=("finance",))

#: A webhook is a few kilobytes; more is nobody's we know.
LARGEST_WEBHOOK = 256 * 1024


class WebhookTooLarge(BadRequest):
    code = "webhook-too-large"


class AttachRequest(RequestModel):
    """A provider's token; a card number is refused."""

    provider: str = "sandbox"
    token: str = Field(min_length=3, max_length=255, pattern=r"^[A-Za-z][A-Za-z0-9_:.-]+$")
    make_default: bool | None = None


class RefundRequest(RequestModel):
    """Without an amount, all that is left goes back."""

    amount: Money | None = None


class PayRequest(RequestModel):
    payment_method_id: UUID | None = None


@router.post(
    "/v1/payment-methods",
    status_code=201,
    tags=["payment methods"],
    response_model=PaymentMethodView,
    responses=refusals(MethodRefused, ProviderUnknown, Unavailable, BadRequest),
    dependencies=[PAYER],
)
async def attach(body: AttachRequest, edge: Command) -> Response:
    """Attach a way to pay. What is unpaid is retried with it at once."""
    settings: PaymentsSettings = edge.runtime.settings
    if body.provider not in settings.enabled_providers:
        raise ProviderUnknown("This payment provider is not in use here.", field="provider")
    async with edge.begin():
        pass  # a repeat is answered here, before the provider is asked again
    method = await provider(body.provider).attach(
        key=f"attach:{edge.account_id}:{edge.key or new_id()}",
        token=body.token,
        account=str(edge.account_id),
    )
    async with edge.begin() as uow:
        kept = await attach_payment_method(
            uow,
            account_id=edge.account_id,
            provider=body.provider,
            method=method,
            make_default=body.make_default,
            now=edge.now,
        )
        return await edge.answer(uow, PaymentMethodView.of(kept), status=201)


@router.get("/v1/payment-methods", tags=["payment methods"])
async def list_methods(edge: Listing, page: Paging) -> Page[PaymentMethodView]:
    """The attached ways to pay, newest first."""
    async with edge.begin() as uow:
        return await methods.list_payment_methods(uow.session, page)


@router.get(
    "/v1/payment-methods/{method_id}",
    tags=["payment methods"],
    response_model=PaymentMethodView,
    responses=refusals(PaymentMethodNotFound),
)
async def show_method(method_id: UUID, edge: Read) -> Response:
    """One way to pay."""
    async with edge.begin() as uow:
        return edge.reply(await methods.show_payment_method(uow.session, method_id))


@router.delete(
    "/v1/payment-methods/{method_id}",
    status_code=204,
    tags=["payment methods"],
    responses=refusals(PaymentMethodNotFound),
    dependencies=[PAYER],
)
async def detach(method_id: UUID, edge: Command) -> Response:
    """Charge it no more."""
    async with edge.begin() as uow:
        method = await detach_payment_method(uow, method_id)
        answer = await edge.answer(uow, status=204)
    # The provider forgets it after we have; should that fail, it is merely not used any more.
    await _forget(method.provider, method.reference, method.customer)
    return answer


@router.post(
    "/v1/payment-methods/{method_id}/default",
    tags=["payment methods"],
    response_model=PaymentMethodView,
    responses=refusals(PaymentMethodNotFound),
    dependencies=[PAYER],
)
async def prefer(method_id: UUID, edge: Command) -> Response:
    """Charge it from now on where nothing else is named."""
    async with edge.begin() as uow:
        method = await prefer_payment_method(uow, method_id)
        return await edge.answer(uow, PaymentMethodView.of(method))


@router.get("/v1/payments", tags=["payments"])
async def list_payments(
    edge: Listing,
    page: Paging,
    invoice_id: UUID | None = None,
    subscription_id: UUID | None = None,
    status: PaymentStatus | None = None,
) -> Page[PaymentView]:
    """Payments with their attempts, newest first."""
    async with edge.begin() as uow:
        return await payments.list_payments(
            uow.session,
            page,
            invoice_id=invoice_id,
            subscription_id=subscription_id,
            status=status,
        )


@router.get(
    "/v1/payments/{payment_id}",
    tags=["payments"],
    response_model=PaymentView,
    responses=refusals(PaymentNotFound),
)
async def show_payment(payment_id: UUID, edge: Read) -> Response:
    """One payment with its attempts, refunds and disputes."""
    async with edge.begin() as uow:
        return edge.reply(await payments.show_payment(uow.session, payment_id))


@router.post(
    "/v1/invoices/{invoice_id}/pay",
    tags=["payments"],
    response_model=PaymentView,
    responses=refusals(PaymentNotFound, PaymentNotCollectible, PaymentMethodNotFound),
    dependencies=[PAYER],
)
async def pay(invoice_id: UUID, body: PayRequest, edge: KeyedCommand) -> Response:
    """Collect an open invoice now. However often it is asked, it is charged once."""
    collector: Collector = edge.runtime.own["collector"]
    async with edge.begin() as uow:
        paying = await pay_invoice(
            uow,
            invoice_id,
            method_id=body.payment_method_id,
            owner=collector.owner,
            traffic=collector.traffic,
            real_now=utc_now(),
        )
    if paying.claim is not None:
        await collector.collect(paying.claim)
    async with edge.begin() as uow:
        return await edge.answer(uow, await payments.show_payment(uow.session, paying.payment_id))


@router.post(
    "/v1/payments/{payment_id}/refunds",
    status_code=201,
    tags=["refunds"],
    response_model=RefundView,
    responses=refusals(PaymentNotFound, PaymentNotRefundable, RefundAboveCharge),
    dependencies=[for_staff("finance")],
)
async def refund(payment_id: UUID, body: RefundRequest, edge: KeyedCommand) -> Response:
    """Send money back, all of it or a part; never more than was taken."""
    async with edge.begin() as uow:
        payment = await uow.payments.get(payment_id)
        if body.amount is not None and body.amount.currency != payment.currency:
            raise RefundAboveCharge("It was paid in another currency.", field="amount.currency")
        made = await request_refund(
            uow,
            payment,
            amount=body.amount.amount if body.amount else None,
            reason=RefundReason.REQUESTED,
            now=max(edge.now, await uow.now(payment.account_id)),
            real_now=utc_now(),
        )
        return await edge.answer(uow, RefundView.of(made), status=201)


@router.get(
    "/v1/payments/{payment_id}/refunds", tags=["refunds"], responses=refusals(PaymentNotFound)
)
async def list_refunds(payment_id: UUID, edge: Read) -> Page[RefundView]:
    """What went back of a payment."""
    async with edge.begin() as uow:
        await payments.show_payment(uow.session, payment_id)
        data = await payments.list_refunds(uow.session, payment_id)
        return Page(data=data, next_cursor=None)


@router.post(
    "/v1/webhooks/{name}",
    tags=["webhooks"],
    responses=refusals(ForgedWebhook, ProviderUnknown, WebhookTooLarge),
)
async def take_webhook(name: str, request: Request) -> dict[str, bool]:
    """Take a provider's webhook: verified over its raw body, stored once, answered at once."""
    runtime: Runtime[PaymentsUnitOfWork, PaymentsSettings] = request.app.state.runtime
    if name not in runtime.settings.enabled_providers:
        raise ProviderUnknown("This payment provider is not in use here.", field="provider")
    if int(request.headers.get("content-length") or 0) > LARGEST_WEBHOOK:
        raise WebhookTooLarge("This is too large for a webhook.")
    body = await request.body()
    if len(body) > LARGEST_WEBHOOK:
        raise WebhookTooLarge("This is too large for a webhook.")
    sender = provider(name)
    now = utc_now()
    # A forged one ends here: no connection, no transaction.
    sender.verify(headers=request.headers, body=body, now=now)
    notice = sender.read(body)
    async with runtime.begin() as uow:
        await store_webhook(uow, name, notice, body, real_now=now)
    return {"received": True}


@router.get("/v1/ledger/balances", tags=["ledger"], dependencies=[for_staff("finance")])
async def balances(edge: Listing, at: Instant | None = None) -> BalancesView:
    """What every account of the books stands at, or stood at an instant. For finance."""
    async with edge.begin() as uow:
        return await ledger.ledger_balances(uow.session, at=at, account_id=edge.scope.account_id)


@router.get("/v1/ledger/entries", tags=["ledger"], dependencies=[for_staff("finance")])
async def entries(
    edge: Listing, page: Paging, reference: Annotated[str | None, Query(max_length=200)] = None
) -> Page[EntryView]:
    """The movements of money, newest first. For finance."""
    async with edge.begin() as uow:
        return await ledger.list_ledger_entries(uow.session, page, reference=reference)


async def _forget(name: str, reference: str, customer: str | None) -> None:
    try:
        await provider(name).detach(Method(reference=reference, customer=customer))
    except (Unavailable, ProviderUnknown):
        return
