"""What a plan lets its subscribers do themselves; staff may do it all."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from shared.errors import Forbidden


class NotSelfService(Forbidden):
    """This plan does not let its subscribers do this themselves; the answer says what it does."""

    code = "not-self-service"


class ChangeKind(StrEnum):
    """What a change comes to: more or less money with each period, other quantities, add-ons."""

    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    QUANTITY = "quantity"
    ADDONS = "addons"


class ProrationChoice(StrEnum):
    """When a change counts and what is billed for it, where subscribers may choose."""

    PRORATE_NOW = "prorate_now"
    PRORATE_NEXT = "prorate_next"
    NONE = "none"
    AT_PERIOD_END = "at_period_end"


class CancelTime(StrEnum):
    NOW = "now"
    PERIOD_END = "period_end"
    DATE = "date"


DOES = {
    ChangeKind.UPGRADE: "upgrade",
    ChangeKind.DOWNGRADE: "downgrade",
    ChangeKind.QUANTITY: "change the quantity",
    ChangeKind.ADDONS: "choose add-ons",
    CancelTime.NOW: "cancel at once",
    CancelTime.PERIOD_END: "cancel at the period's end",
    CancelTime.DATE: "cancel at a date",
}
ASK = "Ask support for anything else."


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfService:
    """What subscribers may do; by default change and pause, and cancel at the period's end.

    Without a choice of proration a change counts as the rules say: up at once and prorated, down
    at the period's end. The checks are for subscribers only: whoever may do all is not asked.
    """

    changes: tuple[ChangeKind, ...] = tuple(ChangeKind)
    proration: tuple[ProrationChoice, ...] = ()
    cancel: tuple[CancelTime, ...] = (CancelTime.PERIOD_END,)
    credit: bool = False
    pause: bool = True
    coupons: bool = True
    #: All of it, and whatever else subscribers will be able to do one day.
    everything: bool = False

    def require_change(self, kinds: Collection[str], proration: str | None = None) -> None:
        """Refuse a change that comes to other `kinds` than allowed, or a `proration` of choice."""
        if self.everything:
            return
        if not set(kinds) <= set(self.changes):
            raise NotSelfService(
                f"Subscribers of this plan may {_either(self.changes)} themselves. {ASK}"
                if self.changes
                else "Changes of this plan are made by support only."
            )
        if proration is not None and proration not in self.proration:
            raise NotSelfService(
                f"Subscribers of this plan may choose the proration {_listed(self.proration)}."
                if self.proration
                else "Subscribers of this plan do not choose the proration. Leave it out: what "
                "costs more counts at once, prorated, what costs less at the period's end.",
                field="proration",
            )

    def require_cancel(self, when: Literal["now", "period_end", "date"], *, credit: bool) -> None:
        """Refuse to end it at this time, or to give the unused rest of the period back."""
        if self.everything:
            return
        if when not in self.cancel:
            raise NotSelfService(
                f"Subscribers of this plan may {_either(self.cancel)} themselves. {ASK}"
                if self.cancel
                else "Subscriptions to this plan are canceled by support only.",
                field="cancel_at" if when == "date" else "at_period_end",
            )
        if credit and not self.credit:
            raise NotSelfService(
                "Subscribers of this plan cancel without a credit for the rest of the period. "
                "Leave credit out, or ask support.",
                field="credit",
            )

    def require_pause(self) -> None:
        """Refuse to pause it."""
        if not (self.everything or self.pause):
            raise NotSelfService("Subscriptions to this plan are paused by support only.")

    def require_coupons(self) -> None:
        """Refuse to put a coupon on a running subscription or to take one off."""
        if not (self.everything or self.coupons):
            raise NotSelfService(
                "Coupons are put on subscriptions to this plan by support only.", field="coupon"
            )


EVERYTHING = SelfService(
    proration=tuple(ProrationChoice),
    cancel=tuple(CancelTime),
    credit=True,
    everything=True,
)


def _either(allowed: Iterable[ChangeKind | CancelTime]) -> str:
    return _listed(DOES[one] for one in allowed)


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else str(last)
