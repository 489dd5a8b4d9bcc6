"""What Stripe's objects and errors say, in Perennial's words."""

from datetime import UTC, datetime
from typing import Any

import stripe

from services.payments.providers.base import (
    ActionRequired,
    Authorized,
    Canceled,
    Charged,
    ChargeOutcome,
    DeclineClass,
    Declined,
    Dispute,
    DisputeStatus,
    Method,
    Movement,
    MovementKind,
    Notice,
    NoticeAbout,
    Payout,
    Refunded,
    RefundOutcome,
    RefundRefused,
    Uncertain,
)
from services.payments.providers.stripe.amounts import from_stripe
from shared.errors import Unavailable

#: Stripe's words for a decline that another card may not have, and for one to leave alone.
NEW_CARD = frozenset(
    [
        "expired_card",
        "lost_card",
        "stolen_card",
        "incorrect_number",
        "invalid_number",
        "invalid_account",
        "invalid_expiry_month",
        "invalid_expiry_year",
        "incorrect_cvc",
        "invalid_cvc",
        "card_not_supported",
        "currency_not_supported",
        "pickup_card",
        "restricted_card",
        "new_account_information_available",
        "revocation_of_authorization",
        "revocation_of_all_authorizations",
        "stop_payment_order",
        "payment_method_unactivated",
        "resource_missing",
    ]
)
STOP = frozenset(["fraudulent", "merchant_blacklist", "security_violation", "highest_risk_level"])
WAITS_FOR_PAYER = frozenset(["authentication_required", "requires_action"])

ABOUT: tuple[tuple[str, NoticeAbout], ...] = (
    ("charge.dispute.", "dispute"),
    ("charge.refund", "refund"),
    ("refund.", "refund"),
    ("payment_intent.", "charge"),
    ("payout.", "payout"),
    ("payment_method.", "method"),
    ("setup_intent.", "method"),
)
#: How a dispute ends.
ENDS: dict[str, DisputeStatus] = {"won": "won", "lost": "lost"}


def classify(code: str) -> DeclineClass:
    """What to do about one of Stripe's decline codes."""
    if code in STOP:
        return DeclineClass.STOP
    return DeclineClass.NEW_CARD if code in NEW_CARD else DeclineClass.RETRY_LATER


def outcome_of(intent: Any) -> ChargeOutcome:  # noqa: PLR0911  (a state each)
    """What a payment intent has come to."""
    match intent.status:
        case "succeeded":
            return Charged(
                reference=intent.id,
                amount=from_stripe(intent.amount_received, intent.currency),
                fee=_fee_of(intent),
            )
        case "requires_capture":
            amount = from_stripe(intent.amount_capturable or intent.amount, intent.currency)
            return Authorized(reference=intent.id, amount=amount)
        case "requires_action" | "requires_confirmation":
            return action_of(intent)
        case "requires_payment_method":
            code = _last_decline(intent)
            return action_of(intent) if code in WAITS_FOR_PAYER else _declined(intent, code)
        case "canceled":
            code = _last_decline(intent)
            # One that was declined is canceled by us, so that nobody confirms it afterwards.
            if code is None or code in WAITS_FOR_PAYER:
                return Canceled(reference=intent.id)
            return _declined(intent, code)
        case other:
            return Uncertain(reason=f"Stripe says {other}", reference=intent.id)


def action_of(intent: Any) -> ActionRequired:
    """The payer's part of a payment or setup intent."""
    redirect = _get(_get(intent, "next_action") or {}, "redirect_to_url")
    return ActionRequired(
        reference=_get(intent, "id"),
        url=_get(redirect, "url") if redirect else None,
        client_secret=_get(intent, "client_secret"),
    )


def decline_of(error: Any) -> ActionRequired | Declined:
    """A 402. An off-session charge that needs the payer is one, and waits for them."""
    sent = error.error
    intent = _get(sent, "payment_intent") if sent is not None else None
    reference = _get(intent, "id") if intent is not None else None
    code = (_get(sent, "decline_code") if sent is not None else None) or error.code or "declined"
    if WAITS_FOR_PAYER & {code, error.code} and reference:
        return action_of(intent)
    return Declined(
        decline_class=classify(code),
        code=code,
        message=error.user_message or "",
        reference=reference,
    )


def refund_of(refund: Any) -> RefundOutcome:
    """A pending refund counts as sent: should it come back, a webhook says so later."""
    if refund.status in {"failed", "canceled"}:
        return RefundRefused(code=_get(refund, "failure_reason") or refund.status)
    return Refunded(reference=refund.id, amount=from_stripe(refund.amount, refund.currency))


def moves_money(dispute: Any) -> bool:
    """Whether money was taken back: not by an inquiry, whose states begin with `warning_`."""
    return bool(dispute.payment_intent) and not dispute.status.startswith("warning_")


def dispute_of(dispute: Any) -> Dispute:
    """A dispute that came with its payment intent."""
    intent = dispute.payment_intent
    return Dispute(
        reference=dispute.id,
        charge=intent.id,
        key=key_of(intent),
        amount=from_stripe(dispute.amount, dispute.currency),
        fee=sum(
            from_stripe(line.fee, line.currency).amount
            for line in dispute.balance_transactions or []
            if line.currency == dispute.currency
        ),
        status=ENDS.get(dispute.status, "open"),
        reason=dispute.reason,
    )


def payout_of(payout: Any) -> Payout:
    return Payout(
        reference=payout.id,
        amount=from_stripe(payout.amount, payout.currency),
        failed=payout.status in {"failed", "canceled"},
    )


def movement_of(
    kind: MovementKind,
    thing: Any,
    amount: int,
    *,
    key: str | None = None,
    status: DisputeStatus | None = None,
) -> Movement:
    return Movement(
        kind=kind,
        reference=thing.id,
        key=key or key_of(thing),
        amount=from_stripe(amount, thing.currency),
        fee=_fee_of(thing) if kind == "charge" else 0,
        created_at=datetime.fromtimestamp(thing.created, UTC),
        status=status,
    )


def method_of(method: Any, customer: str | None, action: ActionRequired | None = None) -> Method:
    card = _get(method, "card") or {}
    return Method(
        reference=_get(method, "id"),
        customer=customer,
        brand=_get(card, "brand"),
        last4=_get(card, "last4"),
        exp_month=_get(card, "exp_month"),
        exp_year=_get(card, "exp_year"),
        action=action,
    )


def notice_of(event: dict[str, Any]) -> Notice:
    """A webhook's event. Raises KeyError, TypeError or AttributeError for what is none."""
    kind, thing = event["type"], event["data"]["object"]
    about: NoticeAbout = next((about for start, about in ABOUT if kind.startswith(start)), "other")
    is_setup = kind.startswith("setup_intent.")
    sent = method_of(thing, thing.get("customer")) if about == "method" and not is_setup else None
    return Notice(
        event_id=event["id"],
        kind=kind,
        about=about,
        reference=thing["payment_method"] or thing["id"] if is_setup else thing["id"],
        key=(thing.get("metadata") or {}).get("perennial_key"),
        method=sent,
        confirmed=kind == "setup_intent.succeeded",
    )


def key_of(thing: Any) -> str | None:
    """The idempotency key that we put on it when we made it."""
    key = _get(_get(thing, "metadata") or {}, "perennial_key")
    return str(key) if key else None


def lost_in(error: stripe.StripeError) -> Uncertain:
    return Uncertain(reason=type(error).__name__)


def out_of_reach(error: stripe.StripeError) -> Unavailable:
    return Unavailable(f"The payment provider does not answer ({type(error).__name__}).")


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _last_decline(intent: Any) -> str | None:
    error = _get(intent, "last_payment_error") or {}
    code = _get(error, "decline_code") or _get(error, "code")
    return str(code) if code else None


def _declined(intent: Any, code: str | None) -> Declined:
    code = code or "card_declined"
    return Declined(decline_class=classify(code), code=code, reference=intent.id)


def _fee_of(intent: Any) -> int:
    """The fee, where the charge's balance transaction came along in the same currency."""
    charge = _get(intent, "latest_charge")
    entry = _get(charge, "balance_transaction") if charge and not isinstance(charge, str) else None
    if not entry or isinstance(entry, str) or _get(entry, "currency") != intent.currency:
        return 0
    return from_stripe(int(_get(entry, "fee") or 0), intent.currency).amount
