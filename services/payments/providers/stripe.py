"""Stripe as a provider, by its SDK. Imported only where it is in use: it costs 30 MB."""

import logging
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import stripe
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.payments.providers.base import (
    ActionRequired,
    Authorized,
    Canceled,
    Charged,
    ChargeOutcome,
    ChargeRequest,
    DeclineClass,
    Declined,
    Dispute,
    DisputeStatus,
    ForgedWebhook,
    Limits,
    LookUp,
    Method,
    MethodRefused,
    Movement,
    NeverHeard,
    Notice,
    NoticeAbout,
    Payout,
    Refunded,
    RefundLookUp,
    RefundOutcome,
    RefundRefused,
    RefundRequest,
    Uncertain,
)
from services.payments.providers.signatures import verify_signature
from shared.errors import Invalid, Unavailable
from shared.money import Money, exponent

API_VERSION = "2026-10-28.endive"

#: Stripe counts these in whole units (its documentation; MGA has two digits in ISO 4217).
ZERO_DECIMAL = frozenset(
    "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF".split()  # noqa: SIM905
)
#: ISO 4217 gives these no minor unit; Stripe wants them in hundredths, ending in 00.
IN_HUNDREDTHS = frozenset(["ISK", "UGX"])
#: Three digits, of which the last must be 0.
THREE_DECIMAL = frozenset(["BHD", "JOD", "KWD", "OMR", "TND"])
LARGEST = 99_999_999

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
)


class StripeSettings(BaseSettings):
    """Read from `PERENNIAL_STRIPE_…`."""

    model_config = SettingsConfigDict(env_prefix="PERENNIAL_STRIPE_")

    api_key: SecretStr = Field(description="A restricted key is enough: intents, refunds, …")
    #: Several, separated by commas, while a secret is being replaced.
    webhook_secret: SecretStr
    url: str = "https://api.stripe.com"
    timeout_seconds: float = 10.0
    #: Stripe's default is 100 a second for an account, 25 for one endpoint.
    calls_per_second: float = 25.0


class StripeProvider:
    """Fulfils `PaymentProvider`. `charge` references are payment intents."""

    name = "stripe"
    #: Stripe forgets keys after 24 hours.
    key_window = timedelta(hours=23)
    #: Search, by which a lost intent is found, follows what was written.
    look_up_lag = timedelta(hours=1)

    def __init__(self, settings: StripeSettings) -> None:
        # Telemetry would write a file into the home folder and send timings.
        stripe.enable_telemetry = False
        logging.getLogger("stripe").setLevel(logging.WARNING)
        self._secrets = [
            secret for secret in settings.webhook_secret.get_secret_value().split(",") if secret
        ]
        self.longest_call = timedelta(seconds=settings.timeout_seconds + 3)
        self.calls_per_second = settings.calls_per_second
        self._http = stripe.HTTPXClient(
            timeout=httpx.Timeout(settings.timeout_seconds, connect=3.0)
        )
        client = stripe.StripeClient(
            settings.api_key.get_secret_value(),
            base_addresses={"api": settings.url},
            http_client=self._http,
            # Repeating under the same key is the reconciler's: it knows when to stop.
            max_network_retries=0,
            stripe_version=API_VERSION,
        )
        # The SDK's parameter types are typed dictionaries for each call; ours are built here.
        self._api: Any = client.v1

    def limits(self, currency: str) -> Limits | None:
        try:
            exponent(currency)
        except Invalid:
            return None
        if currency in {"XXX", "XTS", "XAU", "XAG"}:
            return None
        return Limits(minimum=1, maximum=LARGEST)

    async def attach(self, *, key: str, token: str, account: str) -> Method:
        """A customer of its own for each method: a method can be taken away with it."""
        try:
            customer = await self._api.customers.create_async(
                {"metadata": {"account_id": account}}, {"idempotency_key": f"{key}:customer"}
            )
            method = await self._api.payment_methods.attach_async(
                token, {"customer": customer.id}, {"idempotency_key": f"{key}:attach"}
            )
        except (stripe.CardError, stripe.InvalidRequestError) as refused:
            text = refused.user_message or "Stripe does not accept this payment method."
            raise MethodRefused(text, field="token") from refused
        except stripe.StripeError as lost:
            raise _unavailable(lost) from lost
        return _method(method, customer.id)

    async def detach(self, method: Method) -> None:
        try:
            await self._api.payment_methods.detach_async(method.reference)
        except stripe.InvalidRequestError:
            return
        except stripe.StripeError as lost:
            raise _unavailable(lost) from lost

    async def charge(self, request: ChargeRequest) -> ChargeOutcome:
        try:
            amount = to_stripe(request.amount)
        except ValueError as impossible:
            return Declined(
                decline_class=DeclineClass.NEW_CARD,
                code="amount_not_supported",
                message=str(impossible),
            )
        parameters = {
            "amount": amount,
            "currency": request.amount.currency.lower(),
            "customer": request.customer,
            "payment_method": request.method,
            "payment_method_types": ["card"],
            "confirm": True,
            "off_session": not request.customer_present,
            "capture_method": "automatic" if request.capture else "manual",
            "metadata": {**request.metadata, "perennial_key": request.key},
            "expand": ["latest_charge.balance_transaction"],
        }
        return await self._intent(
            self._api.payment_intents.create_async(parameters, {"idempotency_key": request.key})
        )

    async def capture(self, *, key: str, charge: str, amount: Money) -> ChargeOutcome:
        return await self._intent(
            self._api.payment_intents.capture_async(
                charge, {"amount_to_capture": to_stripe(amount)}, {"idempotency_key": key}
            )
        )

    async def cancel(self, *, key: str, charge: str) -> ChargeOutcome:
        try:
            intent = await self._api.payment_intents.cancel_async(
                charge, {}, {"idempotency_key": key}
            )
        except stripe.InvalidRequestError:
            # It is past canceling: its own state says what became of it.
            return await self._intent(self._api.payment_intents.retrieve_async(charge))
        except stripe.StripeError as lost:
            return _lost(lost)
        return _outcome(intent)

    async def look_up(self, *, key: str, reference: str | None = None) -> LookUp:
        if reference:
            return await self._intent(
                self._api.payment_intents.retrieve_async(
                    reference, {"expand": ["latest_charge.balance_transaction"]}
                )
            )
        try:
            found = await self._api.payment_intents.search_async(
                {"query": f"metadata['perennial_key']:'{key}'", "limit": 1}
            )
        except stripe.StripeError as lost:
            return _lost(lost)
        return _outcome(found.data[0]) if found.data else NeverHeard()

    async def refund(self, request: RefundRequest) -> RefundOutcome:
        try:
            refund = await self._api.refunds.create_async(
                {
                    "payment_intent": request.charge,
                    "amount": to_stripe(request.amount),
                    "metadata": {"perennial_key": request.key},
                },
                {"idempotency_key": request.key},
            )
        except stripe.IdempotencyError as lost:
            return Uncertain(reason=type(lost).__name__)
        except (stripe.InvalidRequestError, stripe.CardError) as refused:
            code = refused.code or "refund_refused"
            return RefundRefused(code=code, message=refused.user_message or "")
        except stripe.StripeError as lost:
            return Uncertain(reason=type(lost).__name__)
        return _refund(refund)

    async def look_up_refund(self, *, key: str, charge: str) -> RefundLookUp:
        try:
            found = await self._api.refunds.list_async({"payment_intent": charge, "limit": 100})
        except stripe.StripeError as lost:
            return Uncertain(reason=type(lost).__name__)
        for refund in found.data:
            if _key(refund) == key:
                return _refund(refund)
        return NeverHeard()

    async def look_up_dispute(self, reference: str) -> Dispute | None:
        try:
            dispute = await self._api.disputes.retrieve_async(reference)
            intent = await self._api.payment_intents.retrieve_async(dispute.payment_intent)
        except stripe.InvalidRequestError:
            return None
        except stripe.StripeError as lost:
            raise _unavailable(lost) from lost
        final: dict[str, DisputeStatus] = {"won": "won", "lost": "lost"}
        return Dispute(
            reference=dispute.id,
            charge=intent.id,
            key=_key(intent),
            amount=from_stripe(dispute.amount, dispute.currency),
            fee=sum(line.fee for line in dispute.balance_transactions or []),
            status=final.get(dispute.status, "open"),
            reason=dispute.reason,
        )

    async def look_up_payout(self, reference: str) -> Payout | None:
        try:
            payout = await self._api.payouts.retrieve_async(reference)
        except stripe.InvalidRequestError:
            return None
        except stripe.StripeError as lost:
            raise _unavailable(lost) from lost
        return Payout(reference=payout.id, amount=from_stripe(payout.amount, payout.currency))

    async def movements(self, *, since: datetime | None = None) -> AsyncIterator[Movement]:
        window = {"created": {"gte": int(since.timestamp())}} if since else {}
        try:
            intents = await self._api.payment_intents.list_async({**window, "limit": 100})
            async for intent in intents.auto_paging_iter():
                if intent.amount_received:
                    yield _movement("charge", intent, intent.amount_received)
            refunds = await self._api.refunds.list_async({**window, "limit": 100})
            async for refund in refunds.auto_paging_iter():
                if refund.status != "failed":
                    yield _movement("refund", refund, refund.amount)
        except stripe.StripeError as lost:
            raise _unavailable(lost) from lost

    def verify(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        header = headers.get("stripe-signature", "")
        verify_signature(header, body, secrets=self._secrets, now=now)

    def read(self, body: bytes) -> Notice:
        try:
            event = orjson.loads(body)
            kind, thing = event["type"], event["data"]["object"]
            about: NoticeAbout = next(
                (about for start, about in ABOUT if kind.startswith(start)), "other"
            )
            return Notice(
                event_id=event["id"],
                kind=kind,
                about=about,
                reference=thing["id"],
                key=(thing.get("metadata") or {}).get("perennial_key"),
                method=_sent_method(thing) if about == "method" else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            raise ForgedWebhook("The webhook is signed, but is no event.") from wrong

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the SDK's own gap

    async def _intent(self, call: Any) -> ChargeOutcome:
        try:
            return _outcome(await call)
        except stripe.CardError as declined:
            return _declined(declined)
        except stripe.IdempotencyError as lost:
            return _lost(lost)
        except stripe.InvalidRequestError as wrong:
            return Declined(
                decline_class=DeclineClass.NEW_CARD,
                code=wrong.code or "invalid_request",
                message=wrong.user_message or "",
            )
        except stripe.StripeError as lost:
            return _lost(lost)


def to_stripe(money: Money) -> int:
    """ISO minor units as Stripe counts them. Raises ValueError for what it cannot take."""
    if money.currency in IN_HUNDREDTHS:
        return money.amount * 100
    if money.currency in ZERO_DECIMAL:
        unit: int = 10 ** exponent(money.currency)
        if money.amount % unit:
            raise ValueError(f"Stripe takes whole units of {money.currency}, not {money}.")
        return money.amount // unit
    if money.currency in THREE_DECIMAL and money.amount % 10:
        raise ValueError(f"Stripe takes {money.currency} in steps of 0.010, not {money}.")
    return money.amount


def from_stripe(amount: int, currency: str) -> Money:
    """What Stripe counts, in ISO minor units."""
    code = currency.upper()
    if code in IN_HUNDREDTHS:
        return Money(amount // 100, code)
    if code in ZERO_DECIMAL:
        return Money(amount * 10 ** exponent(code), code)
    return Money(amount, code)


def classify(code: str) -> DeclineClass:
    """What to do about one of Stripe's decline codes."""
    if code in STOP:
        return DeclineClass.STOP
    return DeclineClass.NEW_CARD if code in NEW_CARD else DeclineClass.RETRY_LATER


def _outcome(intent: Any) -> ChargeOutcome:  # noqa: PLR0911  (a state each)
    match intent.status:
        case "succeeded":
            return Charged(
                reference=intent.id,
                amount=from_stripe(intent.amount_received, intent.currency),
                fee=_fee(intent),
            )
        case "requires_capture":
            amount = from_stripe(intent.amount_capturable or intent.amount, intent.currency)
            return Authorized(reference=intent.id, amount=amount)
        case "requires_action" | "requires_confirmation":
            return ActionRequired(
                reference=intent.id, url=_action_url(intent), client_secret=intent.client_secret
            )
        case "canceled":
            return Canceled(reference=intent.id)
        case "requires_payment_method":
            error = _get(intent, "last_payment_error") or {}
            code = _get(error, "decline_code") or _get(error, "code") or "card_declined"
            if code in WAITS_FOR_PAYER:
                return ActionRequired(reference=intent.id, client_secret=intent.client_secret)
            return Declined(decline_class=classify(code), code=code, reference=intent.id)
        case other:
            return Uncertain(reason=f"Stripe says {other}", reference=intent.id)


def _declined(error: Any) -> ChargeOutcome:
    """A 402. An off-session charge that needs the payer is one, and waits for them."""
    sent = error.error
    intent = _get(sent, "payment_intent") if sent is not None else None
    reference = _get(intent, "id") if intent is not None else None
    code = (_get(sent, "decline_code") if sent is not None else None) or error.code or "declined"
    if WAITS_FOR_PAYER & {code, error.code} and reference:
        return ActionRequired(reference=reference, client_secret=_get(intent, "client_secret"))
    return Declined(
        decline_class=classify(code),
        code=code,
        message=error.user_message or "",
        reference=reference,
    )


def _get(thing: Any, name: str) -> Any:
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _key(thing: Any) -> str | None:
    key = _get(_get(thing, "metadata") or {}, "perennial_key")
    return str(key) if key else None


def _fee(intent: Any) -> int:
    """The fee, where the charge's balance transaction came along in the same currency."""
    charge = _get(intent, "latest_charge")
    entry = _get(charge, "balance_transaction") if charge and not isinstance(charge, str) else None
    if not entry or isinstance(entry, str) or _get(entry, "currency") != intent.currency:
        return 0
    return from_stripe(int(_get(entry, "fee") or 0), intent.currency).amount


def _action_url(intent: Any) -> str | None:
    redirect = _get(_get(intent, "next_action") or {}, "redirect_to_url")
    return _get(redirect, "url") if redirect else None


def _refund(refund: Any) -> RefundOutcome:
    if refund.status in {"failed", "canceled"}:
        return RefundRefused(code=_get(refund, "failure_reason") or refund.status)
    return Refunded(reference=refund.id, amount=from_stripe(refund.amount, refund.currency))


def _movement(kind: Any, thing: Any, amount: int) -> Movement:
    return Movement(
        kind=kind,
        reference=thing.id,
        key=_key(thing),
        amount=from_stripe(amount, thing.currency),
        fee=0,
        created_at=datetime.fromtimestamp(thing.created, UTC),
    )


def _method(method: Any, customer: str | None) -> Method:
    card = _get(method, "card") or {}
    return Method(
        reference=_get(method, "id"),
        customer=customer,
        brand=_get(card, "brand"),
        last4=_get(card, "last4"),
        exp_month=_get(card, "exp_month"),
        exp_year=_get(card, "exp_year"),
    )


def _sent_method(thing: dict[str, Any]) -> Method:
    return _method(thing, thing.get("customer"))


def _lost(error: stripe.StripeError) -> Uncertain:
    return Uncertain(reason=type(error).__name__)


def _unavailable(error: stripe.StripeError) -> Unavailable:
    return Unavailable(f"The payment provider does not answer ({type(error).__name__}).")


def create() -> StripeProvider:
    """The plug-in's entry point."""
    return StripeProvider(StripeSettings())
