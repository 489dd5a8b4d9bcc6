"""Start, continue or end the dunning of a payment after an attempt came to nothing."""

from datetime import datetime

from services.payments.domain.dunning import Dunning, DunningStatus, is_over, next_retry
from services.payments.domain.payments import Attempt, Payment
from services.payments.repository import PaymentsUnitOfWork

#: It was made, and it succeeded: a dunning begins with what is reported in between.
EVENTS_BEFORE_ANY_TROUBLE = 2


def plan_retry(
    payment: Payment, attempt: Attempt | None, *, decline_class: str, at: datetime
) -> datetime | None:
    """When it is tried again by itself; a payment by hand in between changes no plan."""
    if attempt is not None and attempt.resumes_at is not None and decline_class == "retry_later":
        return max(attempt.resumes_at, at)
    retries_at = next_retry(payment, decline_class=decline_class, at=at)
    if retries_at is not None:
        payment.retries += 1
    return retries_at


async def dun_payment(
    uow: PaymentsUnitOfWork,
    payment: Payment,
    *,
    decline_class: str,
    retries_at: datetime | None,
    at: datetime,
) -> None:
    """Report what follows. The first payment of a subscription is not dunned."""
    if not payment.is_dunned:
        return
    dunning = await uow.dunning_of(payment.id)
    if dunning is None:
        dunning = Dunning.of(payment, at=at)
        uow.session.add(dunning)
        uow.emit(dunning.start(at=at, decline_class=decline_class, retries_at=retries_at))
    over = is_over(decline_class=decline_class, retries_at=retries_at)
    if over and dunning.status is DunningStatus.RUNNING:
        uow.emit(dunning.exhaust(at=at))


async def end_dunning(uow: PaymentsUnitOfWork, payment: Payment, *, at: datetime) -> None:
    """The money came, or is not owed any more."""
    if payment.version <= EVENTS_BEFORE_ANY_TROUBLE:
        return  # the first attempt took the money: most do, and none of them is dunned
    dunning = await uow.dunning_of(payment.id)
    if dunning is None or dunning.status not in (DunningStatus.RUNNING, DunningStatus.EXHAUSTED):
        return
    if payment.succeeded_at is not None and not payment.cancel_requested:
        uow.emit(dunning.recover(at=at))
    else:
        dunning.cancel()
