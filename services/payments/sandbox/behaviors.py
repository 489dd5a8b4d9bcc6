"""What each test token does, as data."""

from dataclasses import dataclass, replace
from typing import Literal

Outcome = Literal["succeed", "decline", "action"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """How a charge with this token ends, and what goes wrong on the way."""

    outcome: Outcome = "succeed"
    decline_code: str = ""
    #: The first call under a key hangs and charges nothing; the same key works afterwards.
    hang_before: bool = False
    #: The first call under a key charges and then hangs: the answer is lost.
    hang_after: bool = False
    #: How many times each webhook of it is sent.
    webhook_copies: int = 1
    webhook_delay_seconds: float = 0.0
    #: So many charges with the method are declined, the next ones succeed.
    fails_first: int = 0
    #: Its owner has to confirm it once; until then each charge waits for them.
    confirmed_first: bool = False
    last4: str = "4242"
    expired: bool = False


TOKENS = {
    "tok_ok": Behavior(),
    "tok_declined": Behavior(outcome="decline", decline_code="generic_decline", last4="0002"),
    "tok_insufficient_funds": Behavior(
        outcome="decline", decline_code="insufficient_funds", last4="9995"
    ),
    "tok_expired_card": Behavior(
        outcome="decline", decline_code="expired_card", last4="0069", expired=True
    ),
    "tok_fraud": Behavior(outcome="decline", decline_code="fraudulent", last4="0019"),
    "tok_requires_action": Behavior(outcome="action", last4="3155"),
    "tok_confirm_first": Behavior(confirmed_first=True, last4="3220"),
    "tok_timeout_before": Behavior(hang_before=True, last4="1001"),
    "tok_timeout_after": Behavior(hang_after=True, last4="1002"),
    "tok_duplicate_webhook": Behavior(webhook_copies=3, last4="1003"),
    "tok_late_webhook": Behavior(webhook_delay_seconds=3.0, last4="1004"),
}

DECLINE_MESSAGES = {
    "generic_decline": "The card was declined.",
    "insufficient_funds": "The card has insufficient funds.",
    "expired_card": "The card has expired.",
    "fraudulent": "The payment is suspected of fraud.",
}


def behavior_of(token: str) -> Behavior | None:
    """The behavior behind a token, or None if there is no such token."""
    name, _, count = token.partition(":")
    if name == "tok_fails_then_ok" and count.isdigit():
        return Behavior(decline_code="insufficient_funds", fails_first=int(count), last4="0341")
    found = TOKENS.get(token)
    return replace(found) if found else None


def fee_of(amount: int) -> int:
    """What the sandbox keeps of a charge: 1.4 % and 25 minor units, never more than the charge."""
    return min(amount, (amount * 14 + 500) // 1000 + 25)
