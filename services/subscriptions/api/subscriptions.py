"""Subscriptions: starting, looking, changing, ending."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query as Param
from fastapi import Response
from pydantic import AwareDatetime, Field

from services.subscriptions import queries
from services.subscriptions.api.edge import (
    LEAVER,
    PAYER,
    Command,
    KeyedCommand,
    Listing,
    Paging,
    Query,
)
from services.subscriptions.api.previews import PreviewView, price_preview
from services.subscriptions.api.views import SubscriptionView, TimelineEntryView
from services.subscriptions.domain.account import (
    AccountIsClosed,
    AccountNotFound,
    AccountNotReady,
    PaymentMethodUnknown,
    ProjectNotActive,
)
from services.subscriptions.domain.catalog import AddonNotFound, NotOnSale
from services.subscriptions.domain.coupon import (
    CouponExhausted,
    CouponExpired,
    CouponForFirstTime,
    CouponNotForPlan,
    CouponNotFound,
)
from services.subscriptions.domain.period import Billing
from services.subscriptions.domain.plan import PlanNotPublished
from services.subscriptions.domain.price import PriceInvalid, PriceNotFound, PriceNotOnSale
from services.subscriptions.domain.self_service import NotSelfService
from services.subscriptions.domain.subscription import (
    CurrencyMismatch,
    DateInvalid,
    IllegalTransition,
    IntervalMismatch,
    NothingChanges,
    NothingScheduled,
    PaymentBehavior,
    PaymentMethodNeeded,
    Proration,
    QuantityInvalid,
    Status,
    Subscription,
    SubscriptionNotFound,
    TrialTooLong,
    TrialUsed,
)
from services.subscriptions.invoicing_client import InvoicingAway
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.cancel_subscription import (
    RequestedEnd,
    cancel_subscription,
    uncancel_subscription,
)
from services.subscriptions.use_cases.change_subscription import (
    RequestedChange,
    change_subscription,
    withdraw_change,
)
from services.subscriptions.use_cases.choose_items import AddonChoice
from services.subscriptions.use_cases.pause_subscription import (
    RequestedResumption,
    pause_subscription,
    resume_subscription,
)
from services.subscriptions.use_cases.preview_subscription import preview_subscription
from services.subscriptions.use_cases.start_subscription import RequestedStart, start_subscription
from services.subscriptions.use_cases.who_may_ask import Asker
from shared.errors import BadRequest, Invalid, PreconditionFailed
from shared.money import AmountTooLarge
from shared.web import Cursor, Edge, Page, Reading, RequestModel, Router, for_role, problems

router = Router(prefix="/v1/subscriptions", tags=["subscriptions"])

Quantity = Annotated[int, Field(ge=1, le=1_000_000)]
Reason = Annotated[str, Field(min_length=1, max_length=500)]

CANCELER = for_role(
    "admin",
    "billing",
    staff=("finance", "support"),
    but="of the staff only finance and admin with `credit` or `refund`",
)


class AddonRequest(RequestModel):
    """An add-on, by itself or by one of its prices."""

    addon_id: UUID | None = None
    price_id: UUID | None = None
    quantity: Quantity = 1


Addons = Annotated[list[AddonRequest], Field(max_length=50)]


class StartRequest(RequestModel):
    price_id: UUID
    quantity: Quantity = 1
    addons: Addons = Field(default_factory=list)
    coupon: str | None = Field(None, max_length=100)
    project_id: UUID | None = None
    trial_days: int | None = Field(None, ge=0, le=730)
    payment_method_id: UUID | None = None
    billing: Billing = Billing.ANNIVERSARY
    start_at: AwareDatetime | None = Field(None, description="In the past: bill from then on.")
    imported: bool = Field(
        default=False, description="Staff: it runs elsewhere; bill from the next period on."
    )


class ChangeRequest(RequestModel):
    """What should be different. Without `proration`: up at once, down at the period's end.

    With `effective_at` it waits for that date. `pending_if_unpaid`: what costs something now
    counts once its invoice is paid, and lapses after 23 hours else.
    """

    price_id: UUID | None = None
    quantity: Quantity | None = None
    addons: Addons | None = None
    proration: Proration | None = None
    effective_at: AwareDatetime | None = None
    payment_behavior: PaymentBehavior = PaymentBehavior.AT_ONCE

    def change(self, asker: Asker) -> RequestedChange:
        return RequestedChange(
            asker=asker,
            price_id=self.price_id,
            quantity=self.quantity,
            addons=None if self.addons is None else choices(self.addons),
            proration=self.proration,
            effective_at=self.effective_at,
            payment=self.payment_behavior,
        )


class CancelRequest(RequestModel):
    """By default at the period's end."""

    at_period_end: bool = True
    cancel_at: AwareDatetime | None = None
    credit: bool = Field(default=False, description="Give back the unused part of the period.")
    refund: bool = Field(
        default=False, description="Give it back by the way it was paid, not as account credit."
    )
    reason: Reason | None = None

    def end(self, asker: Asker) -> RequestedEnd:
        return RequestedEnd(
            asker=asker,
            at_period_end=self.at_period_end,
            cancel_at=self.cancel_at,
            credit=self.credit,
            refund=self.refund,
            reason=self.reason,
        )


class PreviewRequest(ChangeRequest):
    """One of: what should be different, `cancel` as it would be asked for, or `resume`."""

    cancel: CancelRequest | None = None
    resume: bool = False

    def asked(self, asker: Asker) -> RequestedChange | RequestedEnd | RequestedResumption:
        change = self.change(asker)
        if (self.cancel is not None) + self.resume + (not change.is_empty) > 1:
            raise Invalid("Preview one thing at a time.", field="cancel")
        if self.cancel is not None:
            return self.cancel.end(asker)
        return RequestedResumption(asker) if self.resume else change


class PauseRequest(RequestModel):
    """From the period's end; `resumes_at` wakes it by itself."""

    resumes_at: AwareDatetime | None = None


def asker_of(query: Reading[Any]) -> Asker:
    """Staff, or somebody of the account."""
    return Asker(is_staff=query.caller.is_operator)


def choices(addons: list[AddonRequest]) -> list[AddonChoice]:
    return [
        AddonChoice(addon_id=addon.addon_id, price_id=addon.price_id, quantity=addon.quantity)
        for addon in addons
    ]


CHOICE_REFUSALS = (
    PriceNotFound,
    PriceNotOnSale,
    PriceInvalid,
    AddonNotFound,
    NotOnSale,
    PlanNotPublished,
    CurrencyMismatch,
    IntervalMismatch,
    QuantityInvalid,
    AmountTooLarge,
)


@router.post(
    "",
    status_code=201,
    response_model=SubscriptionView,
    responses=problems(
        *CHOICE_REFUSALS,
        CouponNotFound,
        CouponExhausted,
        CouponExpired,
        CouponForFirstTime,
        CouponNotForPlan,
        DateInvalid,
        TrialUsed,
        TrialTooLong,
        PaymentMethodNeeded,
        PaymentMethodUnknown,
        AccountNotFound,
        AccountNotReady,
        AccountIsClosed,
        ProjectNotActive,
        Invalid,
        BadRequest,
    ),
    dependencies=[PAYER],
)
async def start(body: StartRequest, command: KeyedCommand) -> Response:
    """Subscribe the account to a price."""
    by_staff = command.caller.is_operator
    if (body.imported or body.start_at is not None) and not by_staff:
        raise Invalid("Only staff start in the past or import.", field="start_at")
    requested = RequestedStart(
        price_id=body.price_id,
        quantity=body.quantity,
        addons=choices(body.addons),
        coupon=body.coupon,
        project_id=body.project_id,
        trial_days=body.trial_days,
        payment_method_id=body.payment_method_id,
        billing=body.billing,
        start_at=body.start_at,
        imported=body.imported,
    )
    async with command.begin() as uow:
        subscription = await start_subscription(
            uow, command.account_id, requested, by_staff=by_staff, now=command.now
        )
        return await command.answer(uow, SubscriptionView.of(subscription), status=201)


@router.get("")
async def list_subscriptions(
    *,
    query: Listing,
    page: Paging,
    status: Status | None = None,
    price_id: UUID | None = None,
    project_id: UUID | None = None,
) -> Page[SubscriptionView]:
    """The account's subscriptions, newest first; staff see everybody's."""
    async with query.begin() as uow:
        found = await queries.list_subscriptions(
            uow, page, status=status, price_id=price_id, project_id=project_id
        )
        return page.page(found, SubscriptionView.of, lambda subscription: subscription.id)


@router.get(
    "/{subscription_id}",
    response_model=SubscriptionView,
    responses=problems(SubscriptionNotFound),
)
async def read(subscription_id: UUID, query: Query) -> Response:
    """One subscription."""
    async with query.begin() as uow:
        found = await queries.read_subscription(uow, subscription_id)
        return query.reply(SubscriptionView.of(found))


@router.get("/{subscription_id}/timeline", responses=problems(SubscriptionNotFound, Invalid))
async def timeline(
    subscription_id: UUID,
    query: Query,
    limit: Annotated[int, Param(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Param(max_length=100)] = None,
) -> Page[TimelineEntryView]:
    """Every event of this subscription over all services, oldest first, with what caused it."""
    after = Cursor.decode(cursor).after if cursor else None
    async with query.begin() as uow:
        await queries.read_subscription(uow, subscription_id)
        found = await queries.timeline(uow, subscription_id, after=after, limit=limit + 1)
        more = Cursor(found[limit - 1].event_id).encode() if len(found) > limit else None
        return Page(data=[TimelineEntryView.of(entry) for entry in found[:limit]], next_cursor=more)


@router.post(
    "/{subscription_id}/preview",
    responses=problems(
        SubscriptionNotFound,
        IllegalTransition,
        NothingChanges,
        NotSelfService,
        DateInvalid,
        AccountNotFound,
        InvoicingAway,
        *CHOICE_REFUSALS,
        Invalid,
    ),
)
async def preview(subscription_id: UUID, body: PreviewRequest, query: Query) -> PreviewView:
    """What a change, a cancellation or a resume would cost now and on the next invoice.

    An empty body asks for the next invoice.
    """
    asked = body.asked(asker_of(query))
    async with query.begin() as uow:
        subscription = await queries.read_subscription(uow, subscription_id)
        now = await uow.now(subscription.account_id)
        found = await preview_subscription(uow, subscription, asked, now=now)
    priced = await price_preview(query, found, subscription.account_id)
    return PreviewView.of(found, subscription.currency, priced)


@router.post(
    "/{subscription_id}/change",
    response_model=SubscriptionView,
    responses=problems(
        SubscriptionNotFound,
        IllegalTransition,
        NothingChanges,
        NotSelfService,
        DateInvalid,
        *CHOICE_REFUSALS,
        PreconditionFailed,
        Invalid,
    ),
    dependencies=[PAYER],
)
async def change(subscription_id: UUID, body: ChangeRequest, command: KeyedCommand) -> Response:
    """Another price, quantity or other add-ons."""
    requested = body.change(asker_of(command))
    if requested.is_empty:
        raise Invalid("Say what should change: price_id, quantity or addons.", field="price_id")
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await change_subscription(uow, subscription, requested, now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.delete(
    "/{subscription_id}/scheduled-change",
    response_model=SubscriptionView,
    responses=problems(SubscriptionNotFound, NothingScheduled, PreconditionFailed),
    dependencies=[LEAVER],
)
async def withdraw_scheduled_change(subscription_id: UUID, command: Command) -> Response:
    """Take back a change that waits for the period's end."""
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await withdraw_change(uow, subscription, now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.post(
    "/{subscription_id}/cancel",
    response_model=SubscriptionView,
    responses=problems(
        SubscriptionNotFound, IllegalTransition, DateInvalid, NotSelfService, PreconditionFailed
    ),
    dependencies=[CANCELER],
)
async def cancel(
    subscription_id: UUID, command: Command, body: CancelRequest | None = None
) -> Response:
    """End it: when the paid period runs out (the default), at a date, or now."""
    requested = (body or CancelRequest()).end(asker_of(command))
    if command.caller.staff is not None and (requested.credit or requested.refund):
        command.caller.require_staff("finance")
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await cancel_subscription(uow, subscription, requested, now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.post(
    "/{subscription_id}/uncancel",
    response_model=SubscriptionView,
    responses=problems(SubscriptionNotFound, NothingScheduled, PreconditionFailed),
    dependencies=[LEAVER],
)
async def uncancel(subscription_id: UUID, command: Command) -> Response:
    """Take back a scheduled cancellation."""
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await uncancel_subscription(uow, subscription, now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.post(
    "/{subscription_id}/pause",
    response_model=SubscriptionView,
    responses=problems(
        SubscriptionNotFound, IllegalTransition, DateInvalid, NotSelfService, PreconditionFailed
    ),
    dependencies=[LEAVER],
)
async def pause(
    subscription_id: UUID, command: Command, body: PauseRequest | None = None
) -> Response:
    """Rest from the period's end on: no service and no bills."""
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        resumes_at = body.resumes_at if body else None
        await pause_subscription(
            uow, subscription, asker=asker_of(command), resumes_at=resumes_at, now=now
        )
        return await command.answer(uow, SubscriptionView.of(subscription))


@router.post(
    "/{subscription_id}/resume",
    response_model=SubscriptionView,
    responses=problems(SubscriptionNotFound, IllegalTransition, NotSelfService, PreconditionFailed),
    dependencies=[PAYER],
)
async def resume(subscription_id: UUID, command: Command) -> Response:
    """Wake it: a new period begins and is billed at once. Before the pause: take it back."""
    async with command.begin() as uow:
        subscription, now = await locked(uow, command, subscription_id)
        await resume_subscription(uow, subscription, asker=asker_of(command), now=now)
        return await command.answer(uow, SubscriptionView.of(subscription))


async def locked(
    uow: SubscriptionsUnitOfWork, command: Edge[Any], subscription_id: UUID
) -> tuple[Subscription, datetime]:
    """The subscription as the caller last saw it, locked; and its account's time."""
    subscription = await uow.subscriptions.get(subscription_id)
    command.require_version(subscription.version)
    return subscription, await uow.now(subscription.account_id)
