"""Make a trial longer or shorter, or end it now."""

from datetime import datetime

from services.subscriptions.domain.subscription import Act, Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.advance_subscriptions import can_pay_for
from services.subscriptions.use_cases.bill import bill


async def change_trial(
    uow: SubscriptionsUnitOfWork,
    subscription: Subscription,
    *,
    trial_end: datetime | None,
    now: datetime,
) -> Subscription:
    """Let the trial end at `trial_end`, or (None) now: then the first paid period begins."""
    before = subscription.trial_end
    if trial_end is None:
        terms = await uow.catalog.terms_of(subscription)
        can_pay = await can_pay_for(uow, subscription, Act.END_TRIAL)
        await bill(uow, subscription.end_trial_now(terms, can_pay=can_pay, now=now))
    else:
        await bill(uow, [subscription.move_trial_end(trial_end, now=now)])
    uow.audit(
        "subscription.change_trial",
        subscription.id,
        before={"trial_end": before.isoformat() if before else None},
        after={"trial_end": subscription.trial_end and subscription.trial_end.isoformat()},
    )
    return subscription
