"""The life of a subscription: every state, every move, and what each of them bills.

`status` has the table of moves, `agreement` the fields and how they move, bill and report; each
other module is a chapter of the life: `starting`, `changing`, `pausing`, `ending`, `paying`, and
`passing` for what time alone does.
"""

from services.subscriptions.domain.charges import UsageOf
from services.subscriptions.domain.period import counted_until
from services.subscriptions.domain.subscription.agreement import PendingChange, change_to
from services.subscriptions.domain.subscription.changing import (
    PRICE_MOVE,
    ChangeOrder,
    CouponHeld,
    NothingChanges,
    PaymentBehavior,
    Proration,
)
from services.subscriptions.domain.subscription.items import (
    NO_USAGE,
    CurrencyMismatch,
    IntervalMismatch,
    QuantityInvalid,
    ScheduledChange,
    Usage,
    check_items,
    cost_of,
)
from services.subscriptions.domain.subscription.passing import Passing
from services.subscriptions.domain.subscription.starting import (
    FIRST_PAYMENT_WITHIN,
    PaymentMethodNeeded,
    Starting,
    TrialTooLong,
    TrialUsed,
)
from services.subscriptions.domain.subscription.status import (
    FINAL,
    MOVES,
    RUNNING,
    SERVED,
    Act,
    DateInvalid,
    IllegalTransition,
    NothingScheduled,
    Status,
    SubscriptionNotFound,
)


class Subscription(Starting, Passing):
    """Changes only through its methods, and each returns the event it caused."""


__all__ = [
    "FINAL",
    "FIRST_PAYMENT_WITHIN",
    "MOVES",
    "NO_USAGE",
    "PRICE_MOVE",
    "RUNNING",
    "SERVED",
    "Act",
    "ChangeOrder",
    "CouponHeld",
    "CurrencyMismatch",
    "DateInvalid",
    "IllegalTransition",
    "IntervalMismatch",
    "NothingChanges",
    "NothingScheduled",
    "PaymentBehavior",
    "PaymentMethodNeeded",
    "PendingChange",
    "Proration",
    "QuantityInvalid",
    "ScheduledChange",
    "Status",
    "Subscription",
    "SubscriptionNotFound",
    "TrialTooLong",
    "TrialUsed",
    "Usage",
    "UsageOf",
    "change_to",
    "check_items",
    "cost_of",
    "counted_until",
]
