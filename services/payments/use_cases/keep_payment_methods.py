"""Attach, detach and prefer ways to pay; a new one retries what is unpaid at once."""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select

from services.payments.domain.dunning import Dunning, DunningStatus
from services.payments.domain.methods import PaymentMethod
from services.payments.domain.payments import Payment, PaymentStatus
from services.payments.providers.base import DeclineClass, Method
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import dunnings, payments
from shared.ids import new_id

NEW_CARD = DeclineClass.NEW_CARD.value
#: How long before its end a card's owner is told.
WARNING = timedelta(days=30)


async def attach_payment_method(
    uow: PaymentsUnitOfWork,
    *,
    account_id: UUID,
    provider: str,
    method: Method,
    make_default: bool | None,
    now: datetime,
) -> PaymentMethod:
    """Keep a method that a provider has accepted.

    It becomes the default if asked, if it is the first, or if the account's payments fail:
    whoever brings a new card then wants it to be used.
    """
    attached = await uow.methods.of_account(account_id)
    unpaid = await _unpaid(uow, account_id)
    preferred = make_default if make_default is not None else not attached or bool(unpaid)
    if preferred:
        for other in attached:
            other.is_default = False
        await uow.session.flush()  # the old default before the new one: one index guards both
    new = PaymentMethod(
        id=new_id(),
        account_id=account_id,
        provider=provider,
        reference=method.reference,
        customer=method.customer,
        brand=method.brand,
        last4=method.last4,
        exp_month=method.exp_month,
        exp_year=method.exp_year,
        created_at=now,
        is_default=preferred,
    )
    if method.action is not None:
        new.action_url = method.action.url
        new.client_secret = method.action.client_secret
    new.warn_at = new.expires_at - WARNING if new.expires_at else None
    uow.methods.add(new)
    uow.emit(new.attach(at=now))
    uow.audit("payment_method.attach", new.id, account_id=account_id, after={"provider": provider})
    await uow.session.flush()
    for payment in unpaid:
        payment.ask_now(at=now, method_id=new.id)
    if unpaid:
        uow.wake("collect_due")
    return new


async def detach_payment_method(uow: PaymentsUnitOfWork, method_id: UUID) -> PaymentMethod:
    """Charge it no more. The newest of the others becomes the default."""
    method = await uow.methods.get(method_id)
    was_default = method.is_default
    uow.emit(method.detach(at=await uow.now(method.account_id)))
    uow.audit("payment_method.detach", method.id, account_id=method.account_id)
    await uow.session.flush()
    rest = await uow.methods.of_account(method.account_id)
    if was_default and rest:
        rest[0].is_default = True
    return method


async def prefer_payment_method(uow: PaymentsUnitOfWork, method_id: UUID) -> PaymentMethod:
    """Charge it from now on where nothing else is named."""
    method = await uow.methods.get(method_id)
    await uow.require_clock_at_rest(method.account_id)
    for other in await uow.methods.of_account(method.account_id):
        other.is_default = False
    await uow.session.flush()
    method.is_default = True
    if method.warned_at is None and method.expires_at is not None:
        method.warn_at = method.expires_at - WARNING  # nobody warned of it while it was a spare
    uow.audit("payment_method.prefer", method.id, account_id=method.account_id)
    return method


async def renew_payment_method(
    uow: PaymentsUnitOfWork, method: PaymentMethod, renewed: Method, *, now: datetime
) -> None:
    """The card network sent a new expiry date: what failed for the old one is tried at once."""
    month, year = renewed.exp_month, renewed.exp_year
    if month is None or year is None:
        return
    if (method.exp_year or 0, method.exp_month or 0) >= (year, month):
        return  # an older word, or the same again
    uow.emit(method.renew(exp_month=month, exp_year=year, at=now))
    method.warn_at = method.expires_at - WARNING if method.expires_at else None
    for payment in await _unpaid(uow, method.account_id):
        last = await uow.attempts.last_of(payment.id)
        needs_a_card = payment.status is PaymentStatus.FAILED and payment.decline_class == NEW_CARD
        if needs_a_card and last is not None and last.payment_method_id == method.id:
            payment.ask_now(at=now, method_id=method.id)
            uow.wake("collect_due")


async def _unpaid(uow: PaymentsUnitOfWork, account_id: UUID) -> list[Payment]:
    """Payments that failed or wait for the payer, and are still being asked for."""
    over = select(dunnings.c.payment_id).where(dunnings.c.status != DunningStatus.RUNNING)
    statement = (
        select(Payment)
        .where(
            payments.c.account_id == account_id,
            payments.c.status.in_((PaymentStatus.FAILED, PaymentStatus.REQUIRES_ACTION)),
            payments.c.id.not_in(over),
        )
        .order_by(payments.c.id)
        .with_for_update()
    )
    return list(await uow.session.scalars(statement))


async def warn_of_expiry(uow: PaymentsUnitOfWork, method: PaymentMethod, *, now: datetime) -> None:
    """Tell the account that the card it pays with expires soon; others are not worth a mail."""
    if method.is_default:
        uow.emit(method.warn(at=now))
    else:
        method.warn_at = None


async def exhaust_dunning(
    uow: PaymentsUnitOfWork, dunning: Dunning, payment: Payment, *, now: datetime
) -> None:
    """The time to bring another card is over."""
    if dunning.status is DunningStatus.RUNNING:
        uow.emit(dunning.exhaust(at=now))
        payment.due_at = None
