"""Take due payments in hand: an attempt is stored for each before its provider is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, func, select

from services.payments.domain.methods import PaymentMethod
from services.payments.domain.payments import (
    COLLECTIBLE,
    MARGIN,
    PAID_FIRST,
    Attempt,
    Payment,
    PaymentStatus,
)
from services.payments.providers import ProviderUnknown, provider
from services.payments.providers.base import ChargeRequest
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import payment_methods, payments
from services.payments.traffic import Admission, Traffic
from services.payments.use_cases.dun_payment import dun_payment, plan_retry
from shared.schedule import Due


@dataclass(frozen=True, slots=True)
class Claim:
    """A charge to be sent: its attempt is stored, and nobody else will send it."""

    payment_id: UUID
    attempt_id: UUID
    provider: str
    request: ChargeRequest
    #: Nobody sends it later than this: others may have given it up by then.
    send_before: datetime


@dataclass(frozen=True, slots=True)
class Claims:
    """What one look at the due payments came to."""

    claims: list[Claim]
    #: How many rows were taken off the list, with or without a charge to send.
    handled: int
    throttled: bool


async def claim_due(
    uow: PaymentsUnitOfWork,
    due: Due,
    *,
    limit: int,
    only_urgent: bool,
    owner: str,
    real_now: datetime,
    traffic: Traffic,
) -> Claims:
    """Claim up to `limit` due payments; whom a customer waits for come first.

    Nothing is claimed that could not be sent now. A provider whose rate is used up, or that is
    left alone, holds up no other.
    """
    room = traffic.room(urgent=only_urgent)
    if room == 0 and not only_urgent:
        only_urgent, room = True, traffic.room(urgent=True)
    limit = limit if room is None else min(limit, room)
    if not limit:
        return Claims([], 0, throttled=not traffic.is_resting)
    statement = (
        select(Payment)
        .where(
            payments.c.due_at.is_not(None),
            payments.c.status.in_((*COLLECTIBLE, PaymentStatus.REQUIRES_ACTION)),
            due.matches(payments.c.due_at, payments.c.account_id),
        )
        .order_by(payments.c.is_urgent.desc(), payments.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if only_urgent:
        statement = statement.where(payments.c.is_urgent)
    if shut := traffic.closed(urgent=only_urgent):
        statement = statement.where(_provider_to_charge().not_in(shut))
    found = (await uow.session.scalars(statement)).all()
    methods = await methods_of(uow, found)
    claims: list[Claim] = []
    handled, throttled = 0, only_urgent and not found
    for payment in found:
        at = await due.now_for(uow, payment.account_id)
        method = choose_method(payment, methods.get(payment.account_id, []))
        if method is not None and not may_go(method, payment, traffic):
            throttled = True
            continue
        handled += 1
        claim = await claim_payment(uow, payment, method, owner=owner, at=at, real_now=real_now)
        if claim is not None:
            claims.append(claim)
    return Claims(claims, handled, throttled)


async def claim_payment(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    method: PaymentMethod | None,
    *,
    owner: str,
    at: datetime,
    real_now: datetime,
) -> Claim | None:
    """Store an attempt for a payment whose row is locked, or say why there is none."""
    if payment.status is PaymentStatus.REQUIRES_ACTION:
        # The old attempt must be given up at the provider first: two could both succeed.
        payment.due_at = None
        attempt = await uow.attempts.open_of(payment.id)
        if attempt is not None:
            attempt.request_cancel(real_now=real_now)
            uow.wake("ask_providers")
        return None
    if payment.status not in COLLECTIBLE:
        payment.due_at = None
        return None
    code = _obstacle(payment, method)
    if method is None or code is not None:
        payment.due_at = None
        await _fail_unasked(uow, payment, code or "no_payment_method", at=at)
        return None
    resumes_at = payment.due_at if payment.due_at is not None and payment.due_at > at else None
    attempt = Attempt.begin(
        payment,
        provider=method.provider,
        method_id=method.id,
        owner=owner,
        at=at,
        real_now=real_now,
        longest_call=provider(method.provider).longest_call,
        resumes_at=resumes_at,
    )
    uow.attempts.add(attempt)
    return Claim(
        payment_id=payment.id,
        attempt_id=attempt.id,
        provider=method.provider,
        request=charge_request(payment, attempt, method),
        send_before=real_now + MARGIN,
    )


def charge_request(payment: Payment, attempt: Attempt, method: PaymentMethod) -> ChargeRequest:
    """What is sent for an attempt; a repeat under the same key must say the very same."""
    return ChargeRequest(
        key=str(attempt.id),
        amount=attempt.money,
        method=method.reference,
        customer=method.customer,
        customer_present=payment.billing_reason in PAID_FIRST,
        metadata={
            "invoice_id": str(payment.invoice_id),
            "payment_id": str(payment.id),
            "account_id": str(payment.account_id),
        },
    )


def choose_method(payment: Payment, attached: Sequence[PaymentMethod]) -> PaymentMethod | None:
    """The method that the invoice names, else the account's default, else its newest."""
    for method in attached:
        if method.id == payment.payment_method_id:
            return method
    return attached[0] if attached else None


async def methods_of(
    uow: PaymentsUnitOfWork, found: Sequence[Payment]
) -> dict[UUID, list[PaymentMethod]]:
    """The attached methods of these payments' accounts, the default first."""
    methods: dict[UUID, list[PaymentMethod]] = {}
    if not found:
        return methods
    statement = (
        select(PaymentMethod)
        .where(
            payment_methods.c.account_id.in_({payment.account_id for payment in found}),
            payment_methods.c.detached_at.is_(None),
        )
        .order_by(payment_methods.c.is_default.desc(), payment_methods.c.id.desc())
    )
    for method in await uow.session.scalars(statement):
        methods.setdefault(method.account_id, []).append(method)
    return methods


def may_go(method: PaymentMethod, payment: Payment, traffic: Traffic) -> bool:
    """Whether the provider may be asked for this payment now; if so, it counts."""
    try:
        rate = provider(method.provider).calls_per_second
    except ProviderUnknown:
        return True  # it fails with a reason of its own
    lane = traffic.lane(method.provider, rate=rate)
    return lane.admit(urgent=payment.is_urgent) is Admission.GO


def _provider_to_charge() -> ColumnElement[str]:
    """Whom `choose_method` would have asked, as the database sees it."""
    chosen = (
        select(payment_methods.c.provider)
        .where(
            payment_methods.c.account_id == payments.c.account_id,
            payment_methods.c.detached_at.is_(None),
        )
        .order_by(
            (payment_methods.c.id == payments.c.payment_method_id).desc(),
            payment_methods.c.is_default.desc(),
            payment_methods.c.id.desc(),
        )
        .limit(1)
        .scalar_subquery()
    )
    return func.coalesce(chosen, "")


def _obstacle(payment: Payment, method: PaymentMethod | None) -> str | None:
    """Why no provider needs to be asked."""
    if method is None:
        return "no_payment_method"
    try:
        limits = provider(method.provider).limits(payment.currency)
    except ProviderUnknown:
        return "provider_not_installed"
    if limits is None:
        return "currency_not_supported"
    if not limits.minimum <= payment.amount <= limits.maximum:
        return "amount_not_supported"
    return None


async def _fail_unasked(
    uow: PaymentsUnitOfWork, payment: Payment, code: str, *, at: datetime
) -> None:
    decline_class = "new_card"
    retries_at = plan_retry(payment, None, decline_class=decline_class, at=at)
    if payment.status is PaymentStatus.FAILED and payment.decline_code == code:
        return  # said already
    uow.emit(
        payment.fail(at=at, decline_class=decline_class, decline_code=code, retries_at=retries_at)
    )
    await dun_payment(uow, payment, decline_class=decline_class, retries_at=retries_at, at=at)
