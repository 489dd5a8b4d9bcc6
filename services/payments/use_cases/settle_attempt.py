"""Write down what became of an attempt: state, ledger, events, dunning, in one transaction."""

from datetime import datetime
from uuid import UUID

from services.payments.domain import ledger
from services.payments.domain.payments import Attempt, AttemptStatus, Payment
from services.payments.domain.refunds import Refund, RefundReason
from services.payments.providers.base import (
    ActionRequired,
    Authorized,
    Canceled,
    Charged,
    ChargeOutcome,
    DeclineClass,
    Declined,
    Uncertain,
)
from services.payments.repository import PaymentsUnitOfWork
from services.payments.use_cases.dun_payment import dun_payment, end_dunning, plan_retry
from shared.context import Cause, caused_by
from shared.observability import logger

log = logger(__name__)


async def settle_attempt(
    uow: PaymentsUnitOfWork,
    *,
    payment_id: UUID,
    attempt_id: UUID,
    outcome: ChargeOutcome,
    real_now: datetime,
) -> None:
    """Settle the attempt by the provider's word. One that is settled already stays as it is."""
    payment = await uow.payments.get(payment_id)
    attempt = await uow.attempts.find(attempt_id)
    if attempt is None or not attempt.is_open:
        return
    at = max(attempt.at, await uow.now(payment.account_id))
    if not isinstance(outcome, Uncertain) or outcome.reference:
        attempt.reference = outcome.reference or attempt.reference
    outcome = _as_wanted(attempt, outcome)
    with caused_by(Cause.of(payment.cause)):
        match outcome:
            case Charged() if outcome.amount == attempt.money:
                await _succeed(uow, payment, attempt, outcome, at=at, real_now=real_now)
            case Declined():
                await _decline(uow, payment, attempt, outcome, at=at, real_now=real_now)
            case ActionRequired():
                await _wait_for_payer(uow, payment, attempt, outcome, at=at, real_now=real_now)
            case Canceled():
                await _give_up(uow, payment, attempt, at=at, real_now=real_now)
            case Charged() | Authorized():
                _park(payment, attempt, f"The provider took {outcome.amount} for {attempt.money}.")
            case Uncertain():
                payment.lose_sight()
                attempt.message = outcome.reason
                if not attempt.postpone(real_now=real_now):
                    _park(payment, attempt, f"Nobody knows what became of it: {outcome.reason}.")


def _as_wanted(attempt: Attempt, outcome: ChargeOutcome) -> ChargeOutcome:
    """A no to what was to be given up is what was wanted; what follows is known already."""
    if isinstance(outcome, Declined) and attempt.cancel_requested:
        return Canceled(reference=outcome.reference or "")
    return outcome


async def _succeed(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    attempt: Attempt,
    charged: Charged,
    *,
    at: datetime,
    real_now: datetime,
) -> None:
    attempt.settle(AttemptStatus.SUCCEEDED, real_now=real_now)
    attempt.fee = charged.fee
    uow.emit(payment.succeed(at=at, provider=attempt.provider))
    posting = ledger.charge(attempt.id, attempt.provider, charged.amount, charged.fee)
    await uow.ledger.post(posting, account_id=payment.account_id, at=at)
    await end_dunning(uow, payment, at=at)
    if payment.cancel_requested:
        await send_back(uow, payment, attempt, payment.amount, at=at, real_now=real_now)


async def send_back(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    attempt: Attempt,
    surplus: int,
    *,
    at: datetime,
    real_now: datetime,
) -> None:
    """No invoice wants this much of the money: it goes back, or what is left of it does."""
    disputed = await uow.disputed_of(payment.id)
    rest = min(surplus, payment.left(disputed=disputed))
    if rest <= 0:
        return
    refund = Refund.of(
        payment,
        charge=str(attempt.reference),
        amount=rest,
        reason=RefundReason.SURPLUS,
        disputed=disputed,
        at=at,
        real_now=real_now,
    )
    uow.session.add(refund)
    uow.emit(refund.create(at=at))
    uow.wake("send_refunds")


async def _decline(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    attempt: Attempt,
    declined: Declined,
    *,
    at: datetime,
    real_now: datetime,
) -> None:
    attempt.settle(AttemptStatus.FAILED, real_now=real_now)
    attempt.decline_class = declined.decline_class
    attempt.decline_code = declined.code
    attempt.message = declined.message
    if payment.cancel_requested:
        uow.emit(payment.end_canceled(at=at))
        return
    retries_at = plan_retry(payment, attempt, decline_class=declined.decline_class, at=at)
    uow.emit(
        payment.fail(
            at=at,
            decline_class=declined.decline_class,
            decline_code=declined.code,
            retries_at=retries_at,
        )
    )
    await _owe_what_is_owed(uow, payment)
    await dun_payment(
        uow, payment, decline_class=declined.decline_class, retries_at=retries_at, at=at
    )


async def _wait_for_payer(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    attempt: Attempt,
    wanted: ActionRequired,
    *,
    at: datetime,
    real_now: datetime,
) -> None:
    if attempt.status is AttemptStatus.REQUIRES_ACTION:
        attempt.wait_for_payer(
            url=wanted.url or attempt.action_url,
            client_secret=wanted.client_secret or attempt.client_secret,
            real_now=real_now,
        )
        attempt.asked += 1
        return
    attempt.wait_for_payer(url=wanted.url, client_secret=wanted.client_secret, real_now=real_now)
    retry_later = DeclineClass.RETRY_LATER
    retries_at = plan_retry(payment, None, decline_class=retry_later, at=at)
    uow.emit(payment.require_action(at=at, url=wanted.url, retries_at=retries_at))
    await dun_payment(uow, payment, decline_class=retry_later, retries_at=retries_at, at=at)
    if payment.cancel_requested:
        attempt.request_cancel(real_now=real_now)
        uow.wake("ask_providers")


async def _give_up(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    attempt: Attempt,
    *,
    at: datetime,
    real_now: datetime,
) -> None:
    """The provider will not take money for it any more."""
    attempt.settle(AttemptStatus.CANCELED, real_now=real_now)
    if payment.cancel_requested:
        uow.emit(payment.end_canceled(at=at))
        await end_dunning(uow, payment, at=at)
    else:
        payment.reopen(at=at)
        await _owe_what_is_owed(uow, payment)
        uow.wake("collect_due")


async def _owe_what_is_owed(uow: PaymentsUnitOfWork, payment: Payment) -> None:
    """A part may have come another way, or been taken back, while the attempt was under way.

    Read without a lock: who notes a part waits for this payment's lock, and then tells it.
    """
    invoice = await uow.read_invoice(payment.invoice_id)
    if invoice is not None:
        payment.owe(invoice.amount_due)


def _park(payment: Payment, attempt: Attempt, reason: str) -> None:
    """A person has to look: it shows in the list of what is stuck."""
    payment.lose_sight()
    attempt.owner = None
    attempt.ask_at = None
    attempt.message = reason
    log.error("A charge needs a person", attempt_id=str(attempt.id), reason=reason)
