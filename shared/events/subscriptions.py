"""What subscriptions reports, and the charges by which it says what is owed."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.events.base import Event
from shared.money import Currency

#: A decimal number as text: no float touches money.
DecimalText = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]

ChargeKind = Literal[
    "recurring",
    "usage",
    "addon",
    "one_off",
    "tokens",
    "proration_credit",
    "proration_charge",
]


class ChargePart(BaseModel):
    """One term of a charge's sum, such as a tier: `quantity` x `unit_amount` + `flat_amount`.

    `amount` is exact minor units, unrounded; the parts of a charge come to its exact amount.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    description: str
    quantity: DecimalText
    unit_amount: DecimalText
    flat_amount: DecimalText = "0"
    amount: DecimalText


class Charge(BaseModel):
    """One amount owed before discount and tax, and why.

    `amount` is whole minor units; `unit_amount` is minor units per `quantity`, unrounded.
    For inclusive prices the amount contains the tax. `why` holds the steps of the sum in words
    and numbers: rule, factor, tiers, rounding. The charge covers its period, which is what a
    `TakeBack` gives back a share of. Negative amounts come from releases before take-backs only.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    kind: ChargeKind
    description: str
    quantity: DecimalText = "1"
    unit_amount: DecimalText
    amount: int
    currency: Currency
    period_start: datetime
    period_end: datetime
    tax_category: str = "standard"
    tax_behavior: Literal["exclusive", "inclusive"] = "exclusive"
    price_id: UUID | None = None
    #: What one of `quantity` is called, such as a meter's unit.
    unit: str | None = None
    #: The terms of the sum, where there are several or `quantity` cannot say it.
    parts: tuple[ChargePart, ...] = ()
    why: dict[str, Any]


class TakeBack(BaseModel):
    """A charge that was billed is not owed from `starts_at` to the end of its period.

    It names the charge and never an amount: invoicing, which knows what the charge came to after
    discounts, its tax, what of it was paid and what went back before, says what it is worth. The
    rest describes the charge, whose line an earlier release may have stored without its id.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: UUID
    charge_id: UUID
    starts_at: datetime
    kind: ChargeKind
    price_id: UUID | None = None
    period_start: datetime
    period_end: datetime
    description: str
    why: dict[str, Any]


class Discount(BaseModel):
    """A coupon's effect on charges beside it: a percentage or a fixed amount, never both."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    coupon_id: UUID
    code: str
    description: str
    percent: DecimalText | None = None
    amount: int | None = None
    currency: Currency | None = None
    #: The charges that it counts for; None: all charges of the event.
    charge_ids: tuple[UUID, ...] | None = None


class DunningPolicy(BaseModel):
    """When a failed renewal is tried again (days after the last try), and what comes after."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    days: tuple[int, ...] = (1, 3, 5, 7)
    then: Literal["cancel", "unpaid", "pause"] = "cancel"


class SubscriptionEvent(Event):
    """Carries what invoicing and payments need to act without asking back."""

    subject_field: ClassVar[str] = "subscription_id"

    subscription_id: UUID


class Billable(SubscriptionEvent):
    """A change that may be invoiced: an event without charges and take-backs is not.

    What was paid of a take-back's charge goes to the account's credit, or back by the way it
    came: `give_back`.
    """

    currency: Currency
    plan_name: str
    price_id: UUID
    period_start: datetime
    period_end: datetime
    charges: tuple[Charge, ...] = ()
    take_backs: tuple[TakeBack, ...] = ()
    discounts: tuple[Discount, ...] = ()
    give_back: Literal["credit", "refund"] = "credit"
    payment_method_id: UUID | None = None
    dunning: DunningPolicy = DunningPolicy()


class SubscriptionStarted(Billable):
    """An account subscribed. `incomplete` waits for its first payment."""

    name: ClassVar[str] = "subscription.started"

    status: Literal["incomplete", "trialing", "active"]
    plan_id: UUID
    trial_end: datetime | None = None


class SubscriptionActivated(SubscriptionEvent):
    """Paid up: from the first payment, a trial's end, or after dunning."""

    name: ClassVar[str] = "subscription.activated"

    previous_status: str
    period_start: datetime
    period_end: datetime


class SubscriptionExpired(SubscriptionEvent):
    """The first payment did not come in time."""

    name: ClassVar[str] = "subscription.expired"


class SubscriptionTrialEnded(Billable):
    """The trial is over and the first period begins."""

    name: ClassVar[str] = "subscription.trial_ended"


class SubscriptionTrialWillEnd(SubscriptionEvent):
    """The trial ends soon: a reminder, three days before."""

    name: ClassVar[str] = "subscription.trial_will_end"

    trial_end: datetime


class SubscriptionRenewed(Billable):
    """A new period began; its charges are due, and usage of the old one."""

    name: ClassVar[str] = "subscription.renewed"


class SubscriptionChanged(Billable):
    """Another price, quantity or add-ons. `invoice_now` false: for the next invoice."""

    name: ClassVar[str] = "subscription.changed"

    previous_price_id: UUID
    quantity: int
    invoice_now: bool = True


class SubscriptionUsageBilled(Billable):
    """Usage of a subscription that opens no period now: before it rests, late, or corrected."""

    name: ClassVar[str] = "subscription.usage_billed"


class SubscriptionChangePending(Billable):
    """A change that counts once the invoice for it is paid, and lapses at `expires_at` else."""

    name: ClassVar[str] = "subscription.change_pending"

    change_id: UUID
    expires_at: datetime


class SubscriptionChangeLapsed(SubscriptionEvent):
    """A pending change was not paid for in time, or was replaced: its invoice is not owed."""

    name: ClassVar[str] = "subscription.change_lapsed"

    change_id: UUID


class SubscriptionDiscountsChanged(SubscriptionEvent):
    """A coupon was put on or taken off; it counts from the next period on."""

    name: ClassVar[str] = "subscription.discounts_changed"

    discounts: tuple[Discount, ...] = ()


class SubscriptionTrialChanged(SubscriptionEvent):
    """A trial was made longer or shorter."""

    name: ClassVar[str] = "subscription.trial_changed"

    trial_end: datetime


class SubscriptionChangeScheduled(SubscriptionEvent):
    """A change that waits for the period's end, or for a date."""

    name: ClassVar[str] = "subscription.change_scheduled"

    price_id: UUID | None = None
    quantity: int | None = None
    effective_at: datetime


class SubscriptionChangeWithdrawn(SubscriptionEvent):
    """The scheduled change will not happen."""

    name: ClassVar[str] = "subscription.change_withdrawn"


class SubscriptionCancellationScheduled(SubscriptionEvent):
    """It will end at `effective_at` unless somebody takes that back."""

    name: ClassVar[str] = "subscription.cancellation_scheduled"

    effective_at: datetime
    reason: str | None = None


class SubscriptionCancellationWithdrawn(SubscriptionEvent):
    """It goes on after all."""

    name: ClassVar[str] = "subscription.cancellation_withdrawn"


class SubscriptionMarkedPastDue(SubscriptionEvent):
    """A renewal was not paid and is being asked for again."""

    name: ClassVar[str] = "subscription.marked_past_due"


class SubscriptionMarkedUnpaid(SubscriptionEvent):
    """Asking again came to nothing, and the plan keeps it without service."""

    name: ClassVar[str] = "subscription.marked_unpaid"


class SubscriptionPaused(SubscriptionEvent):
    """No service and no bills until it is resumed."""

    name: ClassVar[str] = "subscription.paused"

    resumes_at: datetime | None = None


class SubscriptionPauseScheduled(SubscriptionEvent):
    """It will pause when the paid period ends."""

    name: ClassVar[str] = "subscription.pause_scheduled"

    effective_at: datetime
    resumes_at: datetime | None = None


class SubscriptionPauseWithdrawn(SubscriptionEvent):
    """The scheduled pause will not happen."""

    name: ClassVar[str] = "subscription.pause_withdrawn"


class SubscriptionResumed(Billable):
    """A new period began after a pause."""

    name: ClassVar[str] = "subscription.resumed"


class SubscriptionCanceled(Billable):
    """The end. Its charges are credits for unused time, where those were asked for, and usage."""

    name: ClassVar[str] = "subscription.canceled"

    effective_at: datetime
    reason: str | None = None
    #: `incomplete`: its first invoice was never paid and is not owed any more.
    previous_status: str | None = None


class TokensOrdered(Event):
    """An account bought tokens; they are granted once the invoice for them is paid."""

    name: ClassVar[str] = "token_order.placed"
    subject_field: ClassVar[str] = "order_id"

    order_id: UUID
    bundle_id: UUID
    tokens: int
    currency: Currency
    charges: tuple[Charge, ...]
    payment_method_id: UUID | None = None


class TokensRefunded(Event):
    """A purchase was taken back unused: what was paid for it is to be given back."""

    name: ClassVar[str] = "token_order.refunded"
    subject_field: ClassVar[str] = "order_id"

    order_id: UUID
    tokens: int


class UsageThresholdReached(Event):
    """Use of a metered feature has reached 80 or 100 percent of what the plan includes."""

    name: ClassVar[str] = "usage.threshold_reached"
    subject_field: ClassVar[str] = "alert_id"

    alert_id: UUID
    subscription_id: UUID
    feature: str
    percent: int
    used: DecimalText
    limit: int
    period_start: datetime


class PlanEvent(Event):
    """The catalog belongs to the operator: `account_id` is the nil UUID."""

    subject_field: ClassVar[str] = "plan_id"

    plan_id: UUID


class PlanPublished(PlanEvent):
    """A plan can be subscribed to."""

    name: ClassVar[str] = "plan.published"

    code: str


class PlanArchived(PlanEvent):
    """A plan takes no new subscribers."""

    name: ClassVar[str] = "plan.archived"


class TestClockEvent(Event):
    """Simulated time of one account; `revision` counts the driver's rounds."""

    __test__ = False  # not a test class, whatever its name begins with

    subject_field: ClassVar[str] = "clock_id"

    clock_id: UUID
    revision: int


class TestClockAdvanced(TestClockEvent):
    """The account's time is `now`: every service does what is due, then reports.

    Until it is `target`, the account is on its way and nobody else changes anything of it.
    """

    name: ClassVar[str] = "test_clock.advanced"

    now: datetime
    target: datetime | None = None


class TestClockDeleted(TestClockEvent):
    """The account is back in real time."""

    name: ClassVar[str] = "test_clock.deleted"
