"""In which states a subscription can be, which moves there are, and what time alone does."""

from enum import StrEnum

from shared.errors import Conflict, Invalid, NotFound


class Status(StrEnum):
    INCOMPLETE = "incomplete"  # the first payment is not in yet
    INCOMPLETE_EXPIRED = "incomplete_expired"  # and did not come in time
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"  # a renewal was not paid; dunning is under way
    UNPAID = "unpaid"  # dunning came to nothing; no service, no new bills
    PAUSED = "paused"
    CANCELED = "canceled"


#: The whole state machine. A move that is not here cannot happen.
MOVES: dict[Status, frozenset[Status]] = {
    Status.INCOMPLETE: frozenset({Status.ACTIVE, Status.INCOMPLETE_EXPIRED, Status.CANCELED}),
    Status.TRIALING: frozenset({Status.ACTIVE, Status.PAUSED, Status.CANCELED}),
    Status.ACTIVE: frozenset({Status.PAST_DUE, Status.PAUSED, Status.CANCELED}),
    Status.PAST_DUE: frozenset({Status.ACTIVE, Status.UNPAID, Status.PAUSED, Status.CANCELED}),
    Status.UNPAID: frozenset({Status.ACTIVE, Status.PAUSED, Status.CANCELED}),
    Status.PAUSED: frozenset({Status.ACTIVE, Status.CANCELED}),
    Status.CANCELED: frozenset(),
    Status.INCOMPLETE_EXPIRED: frozenset(),
}

FINAL = frozenset({Status.CANCELED, Status.INCOMPLETE_EXPIRED})
#: Periods go on and are billed.
RUNNING = frozenset({Status.ACTIVE, Status.PAST_DUE})
#: The account has the service.
SERVED = frozenset({Status.TRIALING, Status.ACTIVE, Status.PAST_DUE})


class Act(StrEnum):
    """What time alone does to a subscription; in this order where instants are equal."""

    EXPIRE = "expire"
    LAPSE_CHANGE = "lapse_change"
    REMIND_TRIAL = "remind_trial"
    CANCEL = "cancel"
    END_TRIAL = "end_trial"
    CHANGE = "change"
    PAUSE = "pause"
    RESUME = "resume"
    RENEW = "renew"
    BILL_USAGE = "bill_usage"


class SubscriptionNotFound(NotFound):
    code = "subscription-not-found"


class IllegalTransition(Conflict):
    code = "illegal-subscription-transition"


class NothingScheduled(Conflict):
    code = "nothing-scheduled"


class DateInvalid(Invalid):
    code = "date-invalid"
