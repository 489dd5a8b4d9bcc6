"""The calls to Stripe, one try each, by its SDK over httpx."""

import logging
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx
import orjson
import stripe
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.payments.providers.base import (
    Canceled,
    ChargeOutcome,
    ChargeRequest,
    DeclineClass,
    Declined,
    Dispute,
    ForgedWebhook,
    Limits,
    LookUp,
    Method,
    MethodRefused,
    Movement,
    NeverHeard,
    Notice,
    Payout,
    RefundLookUp,
    RefundOutcome,
    RefundRefused,
    RefundRequest,
    Uncertain,
)
from services.payments.providers.signatures import verify_signature
from services.payments.providers.stripe.amounts import limits_of, to_stripe
from services.payments.providers.stripe.reading import (
    ENDS,
    action_of,
    decline_of,
    dispute_of,
    key_of,
    lost_in,
    method_of,
    movement_of,
    moves_money,
    notice_of,
    out_of_reach,
    outcome_of,
    payout_of,
    refund_of,
)
from shared.money import Money

API_VERSION = "2026-10-28.endive"

#: The charge and what Stripe kept of it come with the intent.
WITH_FEE = {"expand": ["latest_charge.balance_transaction"]}


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
    #: Where a payer's browser goes after confirming with their bank. With it, a charge that must
    #: be confirmed comes with a link; without it, with a secret for Stripe's script in the page.
    return_url: str = ""


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
        self._return = {"return_url": settings.return_url} if settings.return_url else {}
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
        return limits_of(currency)

    async def attach(self, *, key: str, token: str, account: str) -> Method:
        """A customer of its own for each method, and a setup intent for charges to come.

        The bank may want its owner's confirmation now, so that renewals need none.
        """
        try:
            customer = await self._api.customers.create_async(
                {"metadata": {"account_id": account}}, {"idempotency_key": f"{key}:customer"}
            )
            method = await self._api.payment_methods.attach_async(
                token, {"customer": customer.id}, {"idempotency_key": f"{key}:attach"}
            )
            setup = await self._api.setup_intents.create_async(
                {
                    "customer": customer.id,
                    "payment_method": method.id,
                    "payment_method_types": ["card"],
                    "usage": "off_session",
                    "confirm": True,
                    "metadata": {"account_id": account},
                    **self._return,
                },
                {"idempotency_key": f"{key}:setup"},
            )
        except stripe.IdempotencyError as lost:
            raise out_of_reach(lost) from lost
        except (stripe.CardError, stripe.InvalidRequestError) as refused:
            text = refused.user_message or "Stripe does not accept this payment method."
            raise MethodRefused(text, field="token") from refused
        except stripe.StripeError as lost:
            raise out_of_reach(lost) from lost
        waits = setup.status in {"requires_action", "requires_confirmation"}
        return method_of(method, customer.id, action_of(setup) if waits else None)

    async def detach(self, method: Method) -> None:
        try:
            await self._api.payment_methods.detach_async(method.reference)
        except stripe.InvalidRequestError:
            return
        except stripe.StripeError as lost:
            raise out_of_reach(lost) from lost

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
            **(self._return if request.customer_present else {}),
            **WITH_FEE,
        }
        return await self._intent(
            self._api.payment_intents.create_async(parameters, {"idempotency_key": request.key})
        )

    async def capture(self, *, key: str, charge: str, amount: Money) -> ChargeOutcome:
        return await self._intent(
            self._api.payment_intents.capture_async(
                charge,
                {"amount_to_capture": to_stripe(amount), **WITH_FEE},
                {"idempotency_key": key},
            )
        )

    async def cancel(self, *, key: str, charge: str) -> ChargeOutcome:
        try:
            intent = await self._api.payment_intents.cancel_async(
                charge, {}, {"idempotency_key": key}
            )
        except stripe.IdempotencyError as lost:
            return lost_in(lost)
        except stripe.InvalidRequestError:
            return await self._past_canceling(charge)
        except stripe.StripeError as lost:
            return lost_in(lost)
        return Canceled(reference=intent.id) if intent.status == "canceled" else outcome_of(intent)

    async def look_up(self, *, key: str, reference: str | None = None) -> LookUp:
        if reference:
            return await self._retrieve(reference)
        try:
            found = await self._api.payment_intents.search_async(
                {"query": f"metadata['perennial_key']:'{key}'", "limit": 1}
            )
        except stripe.StripeError as lost:
            return lost_in(lost)
        # Search shows an older state, and without the fee: the intent itself has the last word.
        return await self._retrieve(found.data[0].id) if found.data else NeverHeard()

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
            return lost_in(lost)
        except (stripe.InvalidRequestError, stripe.CardError) as refused:
            code = refused.code or "refund_refused"
            return RefundRefused(code=code, message=refused.user_message or "")
        except stripe.StripeError as lost:
            return lost_in(lost)
        return refund_of(refund)

    async def look_up_refund(self, *, key: str, charge: str) -> RefundLookUp:
        try:
            found = await self._api.refunds.list_async({"payment_intent": charge, "limit": 100})
            async for refund in found.auto_paging_iter():
                if key_of(refund) == key:
                    return refund_of(refund)
        except stripe.StripeError as lost:
            return lost_in(lost)
        return NeverHeard()

    async def look_up_dispute(self, reference: str) -> Dispute | None:
        try:
            dispute = await self._api.disputes.retrieve_async(
                reference, {"expand": ["payment_intent"]}
            )
        except stripe.InvalidRequestError:
            return None
        except stripe.StripeError as lost:
            raise out_of_reach(lost) from lost
        return dispute_of(dispute) if moves_money(dispute) else None

    async def look_up_payout(self, reference: str) -> Payout | None:
        try:
            return payout_of(await self._api.payouts.retrieve_async(reference))
        except stripe.InvalidRequestError:
            return None
        except stripe.StripeError as lost:
            raise out_of_reach(lost) from lost

    async def movements(self, *, since: datetime | None = None) -> AsyncIterator[Movement]:
        window: dict[str, Any] = {"limit": 100}
        if since is not None:
            window["created"] = {"gte": int(since.timestamp())}
        try:
            for book in (self._charges, self._refunds, self._disputes, self._payouts):
                async for line in book(window):
                    yield line
        except stripe.StripeError as lost:
            raise out_of_reach(lost) from lost

    def verify(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        header = headers.get("stripe-signature", "")
        verify_signature(header, body, secrets=self._secrets, now=now)

    def read(self, body: bytes) -> Notice:
        try:
            return notice_of(orjson.loads(body))
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            raise ForgedWebhook("The webhook is signed, but is no event.") from wrong

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]  # the SDK's own gap

    async def _charges(self, window: dict[str, Any]) -> AsyncIterator[Movement]:
        with_fees = {"expand": ["data.latest_charge.balance_transaction"]}
        found = await self._api.payment_intents.list_async({**window, **with_fees})
        async for intent in found.auto_paging_iter():
            if intent.amount_received:
                yield movement_of("charge", intent, intent.amount_received)

    async def _refunds(self, window: dict[str, Any]) -> AsyncIterator[Movement]:
        found = await self._api.refunds.list_async(window)
        async for refund in found.auto_paging_iter():
            if not isinstance(refund_of(refund), RefundRefused):
                yield movement_of("refund", refund, refund.amount)

    async def _disputes(self, window: dict[str, Any]) -> AsyncIterator[Movement]:
        found = await self._api.disputes.list_async({**window, "expand": ["data.payment_intent"]})
        async for dispute in found.auto_paging_iter():
            if moves_money(dispute):
                key, status = key_of(dispute.payment_intent), ENDS.get(dispute.status, "open")
                yield movement_of("dispute", dispute, dispute.amount, key=key, status=status)

    async def _payouts(self, window: dict[str, Any]) -> AsyncIterator[Movement]:
        found = await self._api.payouts.list_async(window)
        async for payout in found.auto_paging_iter():
            if not payout_of(payout).failed:
                yield movement_of("payout", payout, payout.amount)

    async def _past_canceling(self, charge: str) -> ChargeOutcome:
        """Its own state says what became of it; one that is merely declined is not over."""
        try:
            intent = await self._api.payment_intents.retrieve_async(charge, WITH_FEE)
        except stripe.StripeError as lost:
            return lost_in(lost)
        outcome = outcome_of(intent)
        if isinstance(outcome, Declined) and intent.status != "canceled":
            return Uncertain(reason="Stripe does not cancel it", reference=charge)
        return outcome

    async def _retrieve(self, charge: str) -> ChargeOutcome:
        return await self._intent(self._api.payment_intents.retrieve_async(charge, WITH_FEE))

    async def _intent(self, call: Any) -> ChargeOutcome:
        try:
            intent = await call
        except stripe.CardError as declined:
            return await self._make_final(decline_of(declined))
        except stripe.IdempotencyError as lost:
            return lost_in(lost)
        except stripe.InvalidRequestError as wrong:
            return Declined(
                decline_class=DeclineClass.NEW_CARD,
                code=wrong.code or "invalid_request",
                message=wrong.user_message or "",
            )
        except stripe.StripeError as lost:
            return lost_in(lost)
        outcome = outcome_of(intent)
        return outcome if intent.status == "canceled" else await self._make_final(outcome)

    async def _make_final(self, outcome: ChargeOutcome) -> ChargeOutcome:
        """Cancel a declined intent: whoever holds its secret could still pay it, with any card.

        Another attempt follows a decline, so the two could both take money.
        """
        if not isinstance(outcome, Declined) or outcome.reference is None:
            return outcome
        key = f"{outcome.reference}:declined"
        end = await self.cancel(key=key, charge=outcome.reference)
        if isinstance(end, Uncertain):
            return Uncertain(reason=end.reason, reference=outcome.reference)
        return outcome if isinstance(end, Canceled | Declined) else end
