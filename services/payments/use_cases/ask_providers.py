"""The reconciler: ask the provider, by our key, what became of an attempt nobody answered for."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import select

from services.payments.domain.methods import PaymentMethod
from services.payments.domain.payments import (
    MARGIN,
    OPEN_ATTEMPTS,
    Attempt,
    AttemptStatus,
)
from services.payments.providers import ProviderUnknown, provider
from services.payments.providers.base import (
    ActionRequired,
    Authorized,
    Canceled,
    Charged,
    ChargeOutcome,
    Declined,
    NeverHeard,
    PaymentProvider,
    Uncertain,
)
from services.payments.repository import PaymentsUnitOfWork
from services.payments.tables import attempts
from services.payments.use_cases.collect_payments import charge_request
from services.payments.use_cases.settle_attempt import settle_attempt
from shared.clock import utc_now
from shared.crashpoint import crashpoint

#: What a plug-in that was taken out is needed for waits so long between looks.
WITHOUT_PLUGIN = timedelta(hours=1)

Begin = Callable[[], AbstractAsyncContextManager[PaymentsUnitOfWork]]


async def claim_unanswered(
    uow: PaymentsUnitOfWork, *, limit: int, real_now: datetime
) -> list[Attempt]:
    """Attempts to ask about; others leave them alone until the asking must have ended."""
    statement = (
        select(Attempt)
        .where(attempts.c.ask_at <= real_now, attempts.c.status.in_(OPEN_ATTEMPTS))
        .order_by(attempts.c.ask_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = (await uow.session.scalars(statement)).all()
    known = []
    for attempt in found:
        try:
            longest_call = provider(attempt.provider).longest_call
        except ProviderUnknown:
            # Its plug-in was taken out; the others go on, and it waits for the plug-in's return.
            attempt.ask_at = real_now + WITHOUT_PLUGIN
            continue
        attempt.ask_at = real_now + 3 * longest_call + MARGIN
        known.append(attempt)
    return known


async def ask_provider(begin: Begin, attempt: Attempt) -> bool:
    """Settle one attempt by the provider's own books. It never starts a second charge.

    Gives whether its answer had been lost and the provider had done its part: taken the charge, or
    said no to it. What waits for its payer was answered before, and tells nothing of charges now.
    """
    asked = provider(attempt.provider)
    found = await asked.look_up(key=str(attempt.id), reference=attempt.reference)
    crashpoint("payments.looked_up")
    if isinstance(found, NeverHeard):
        outcome = await _never_heard(begin, asked, attempt)
    elif isinstance(found, ActionRequired) and attempt.cancel_requested:
        outcome = await asked.cancel(key=f"{attempt.id}:cancel", charge=found.reference)
    else:
        outcome = found
    if outcome is None:
        return False
    crashpoint("payments.before_reconciling")
    async with begin() as uow:
        await settle_attempt(
            uow,
            payment_id=attempt.payment_id,
            attempt_id=attempt.id,
            outcome=outcome,
            real_now=utc_now(),
        )
    is_answer = isinstance(outcome, Charged | Authorized | ActionRequired | Declined)
    return is_answer and attempt.status is AttemptStatus.UNKNOWN


async def _never_heard(
    begin: Begin, asked: PaymentProvider, attempt: Attempt
) -> ChargeOutcome | None:
    """The provider knows nothing of it: send it again under the same key, or let it go.

    Within the provider's window the key protects against a first request that is only late.
    Outside it, or when nobody wants the money any more, the attempt ends without a charge.
    """
    now = utc_now()
    if attempt.deadline > now and attempt.owner is not None:
        async with begin() as uow:
            waiting = await uow.attempts.find(attempt.id)
            if waiting is not None and waiting.is_open:
                waiting.ask_at = waiting.deadline
        return None
    if attempt.cancel_requested and now < attempt.started_at + asked.look_up_lag:
        return Uncertain(reason="The provider's index may lag behind.")
    if attempt.cancel_requested or now > attempt.started_at + asked.key_window - MARGIN:
        return Canceled(reference="")
    async with begin() as uow:
        payment = await uow.payments.get(attempt.payment_id)
        again = await uow.attempts.find(attempt.id)
        if again is None or again.status is not AttemptStatus.UNKNOWN:
            return None
        method = await uow.session.get(PaymentMethod, again.payment_method_id)
        if method is None:
            return None
        again.deadline = now + asked.longest_call + MARGIN
        request = charge_request(payment, again, method)
    crashpoint("payments.before_sending_again")
    return await asked.charge(request)


async def hint_attempt(uow: PaymentsUnitOfWork, attempt_id: UUID, *, real_now: datetime) -> bool:
    """A webhook names this attempt: have the reconciler ask soon. False if it is not ours."""
    attempt = await uow.attempts.find(attempt_id)
    if attempt is None:
        return False
    await uow.payments.get(attempt.payment_id)
    attempt = await uow.attempts.find(attempt_id)
    if attempt is not None and attempt.is_open:
        attempt.hint(real_now=real_now)
        uow.wake("ask_providers")
    return True
