"""The sandbox as a provider: httpx against its server."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
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
    MovementKind,
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
from shared.http import HttpClient
from shared.money import Money, exponent

NOT_CHARGED_IN = {"XXX", "XTS", "XAU", "XAG"}
MAXIMUM = 99_999_999

DECLINES = {
    "generic_decline": DeclineClass.RETRY_LATER,
    "insufficient_funds": DeclineClass.RETRY_LATER,
    "expired_card": DeclineClass.NEW_CARD,
    "authentication_failed": DeclineClass.NEW_CARD,
    "fraudulent": DeclineClass.STOP,
}
ABOUT: dict[str, NoticeAbout] = {
    "charge": "charge",
    "refund": "refund",
    "dispute": "dispute",
    "payout": "payout",
    "payment_method": "method",
}


class SandboxProviderSettings(BaseSettings):
    """Where the sandbox is, and the secret that its webhooks are signed with."""

    model_config = SettingsConfigDict(env_prefix="PERENNIAL_SANDBOX_")

    url: str = "http://127.0.0.1:8090"
    #: Several, separated by commas, while a secret is being replaced.
    webhook_secret: str = "whsec_sandbox"  # noqa: S105  (development only, and overridden)
    timeout_seconds: float = 5.0
    calls_per_second: float = 1000.0


class _NoAnswer(Exception):
    """The call went out, and what became of it is not known."""


class SandboxProvider:
    """Fulfils `PaymentProvider`."""

    name = "sandbox"
    key_window = timedelta(days=30)
    look_up_lag = timedelta(0)

    def __init__(self, settings: SandboxProviderSettings) -> None:
        self._secrets = [s for s in settings.webhook_secret.split(",") if s]
        self.longest_call = timedelta(seconds=settings.timeout_seconds)
        self.calls_per_second = settings.calls_per_second
        self._http = HttpClient(
            base_url=settings.url,
            # Certificates are only loaded (some megabytes) where they are looked at.
            verify=settings.url.startswith("https"),
            timeout=settings.timeout_seconds,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=100),
        )

    def limits(self, currency: str) -> Limits | None:
        try:
            exponent(currency)
        except Invalid:
            return None
        return None if currency in NOT_CHARGED_IN else Limits(minimum=1, maximum=MAXIMUM)

    async def attach(self, *, key: str, token: str, account: str) -> Method:
        try:
            answer = await self._send(
                "POST", "/v1/payment_methods", key=key, json={"token": token, "account": account}
            )
        except _NoAnswer as lost:
            raise Unavailable(f"The payment provider does not answer ({lost}).") from lost
        body = answer.json()
        if answer.is_client_error:
            raise MethodRefused(body["error"]["message"], field="token")
        return _method(body)

    async def detach(self, method: Method) -> None:
        try:
            await self._send("DELETE", f"/v1/payment_methods/{method.reference}")
        except _NoAnswer as lost:
            raise Unavailable(f"The payment provider does not answer ({lost}).") from lost

    async def charge(self, request: ChargeRequest) -> ChargeOutcome:
        return await self._for_charge(
            "/v1/charges",
            key=request.key,
            json={
                "amount": request.amount.amount,
                "currency": request.amount.currency,
                "payment_method": request.method,
                "capture": request.capture,
                "metadata": dict(request.metadata),
            },
        )

    async def capture(self, *, key: str, charge: str, amount: Money) -> ChargeOutcome:
        return await self._for_charge(
            f"/v1/charges/{charge}/capture", key=key, json={"amount": amount.amount}
        )

    async def cancel(self, *, key: str, charge: str) -> ChargeOutcome:
        return await self._for_charge(f"/v1/charges/{charge}/cancel", key=key)

    async def look_up(self, *, key: str, reference: str | None = None) -> LookUp:
        del reference  # the sandbox finds it by our key alone
        try:
            answer = await self._send("GET", "/v1/charges", params={"key": key})
        except _NoAnswer as lost:
            return Uncertain(reason=str(lost))
        found = answer.json()["data"]
        return _outcome(found[0]) if found else NeverHeard()

    async def refund(self, request: RefundRequest) -> RefundOutcome:
        try:
            answer = await self._send(
                "POST",
                "/v1/refunds",
                key=request.key,
                json={"charge": request.charge, "amount": request.amount.amount},
            )
        except _NoAnswer as lost:
            return Uncertain(reason=str(lost))
        body = answer.json()
        if answer.is_client_error:
            return RefundRefused(code=body["error"]["code"], message=body["error"]["message"])
        return Refunded(reference=body["id"], amount=Money(body["amount"], body["currency"]))

    async def look_up_refund(self, *, key: str, charge: str) -> RefundLookUp:
        del charge
        try:
            answer = await self._send("GET", "/v1/refunds", params={"key": key})
        except _NoAnswer as lost:
            return Uncertain(reason=str(lost))
        found = answer.json()["data"]
        if not found:
            return NeverHeard()
        refund = found[0]
        if refund["status"] == "failed":
            return RefundRefused(code="refund_failed", message="The money came back.")
        return Refunded(reference=refund["id"], amount=Money(refund["amount"], refund["currency"]))

    async def look_up_dispute(self, reference: str) -> Dispute | None:
        body = await self._get(f"/v1/disputes/{reference}")
        if body is None:
            return None
        return Dispute(
            reference=body["id"],
            charge=body["charge"],
            key=body["key"],
            amount=Money(body["amount"], body["currency"]),
            fee=body["fee"],
            status=body["status"],
            reason=body["reason"],
        )

    async def look_up_payout(self, reference: str) -> Payout | None:
        body = await self._get(f"/v1/payouts/{reference}")
        if body is None:
            return None
        return Payout(
            reference=body["id"],
            amount=Money(body["amount"], body["currency"]),
            failed=body["status"] == "failed",
        )

    async def movements(self, *, since: datetime | None = None) -> AsyncIterator[Movement]:
        start = since.timestamp() if since else 0.0
        async for row in self._pages("/v1/charges", since=start):
            if row["captured"]:
                yield _movement("charge", row, amount=row["captured"])
        async for row in self._pages("/v1/refunds", since=start):
            if row["status"] != "failed":
                yield _movement("refund", row)
        async for row in self._pages("/v1/disputes", since=start):
            yield _movement("dispute", row, status=row["status"])
        async for row in self._pages("/v1/payouts", since=start):
            if row["status"] != "failed":
                yield _movement("payout", row)

    def verify(self, *, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        header = headers.get("sandbox-signature", "")
        verify_signature(header, body, secrets=self._secrets, now=now)

    def read(self, body: bytes) -> Notice:
        try:
            event = orjson.loads(body)
            data = event["data"]
            about = ABOUT.get(event["type"].partition(".")[0], "other")
            return Notice(
                event_id=event["id"],
                kind=event["type"],
                about=about,
                reference=data["id"],
                key=data.get("key"),
                method=_method(data) if about == "method" else None,
                confirmed=event["type"] == "payment_method.confirmed",
            )
        except (KeyError, TypeError, ValueError) as wrong:
            raise ForgedWebhook("The webhook is signed, but is no event.") from wrong

    async def close(self) -> None:
        await self._http.aclose()

    async def _for_charge(
        self, path: str, *, key: str, json: dict[str, Any] | None = None
    ) -> ChargeOutcome:
        try:
            answer = await self._send("POST", path, key=key, json=json)
        except _NoAnswer as lost:
            return Uncertain(reason=str(lost))
        body = answer.json()
        if "charge" in body:  # a decline, with the charge beside the error
            return _outcome(body["charge"], message=body["error"]["message"])
        if "error" in body:
            error = body["error"]
            return Declined(
                decline_class=DeclineClass.NEW_CARD,
                code=error["code"],
                message=error["message"],
            )
        return _outcome(body)

    async def _get(self, path: str) -> dict[str, Any] | None:
        try:
            answer = await self._send("GET", path)
        except _NoAnswer as lost:
            raise Unavailable(f"The payment provider does not answer ({lost}).") from lost
        body: dict[str, Any] = answer.json()
        return None if answer.is_client_error else body

    async def _pages(self, path: str, *, since: float) -> AsyncIterator[dict[str, Any]]:
        after: int | None = 0
        while after is not None:
            try:
                answer = await self._send(
                    "GET", path, params={"after": after, "since": since, "limit": 1000}
                )
            except _NoAnswer as lost:
                raise Unavailable(f"The payment provider does not answer ({lost}).") from lost
            page = answer.json()
            for row in page["data"]:
                yield row
            after = page["next"]

    async def _send(
        self, verb: str, path: str, *, key: str | None = None, **arguments: Any
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = await self._http.request(verb, path, headers=headers, **arguments)
        except httpx.HTTPError as lost:
            raise _NoAnswer(type(lost).__name__) from lost
        if answer.is_server_error or answer.status_code in {408, 425, 429}:
            raise _NoAnswer(f"HTTP {answer.status_code}")
        return answer


def _method(body: Mapping[str, Any]) -> Method:
    url = body.get("action_url")
    return Method(
        reference=body["id"],
        brand=body["brand"],
        last4=body["last4"],
        exp_month=body["exp_month"],
        exp_year=body["exp_year"],
        action=ActionRequired(reference=body["id"], url=url) if url else None,
    )


def _movement(
    kind: MovementKind,
    row: Mapping[str, Any],
    *,
    amount: int | None = None,
    status: DisputeStatus | None = None,
) -> Movement:
    return Movement(
        kind=kind,
        reference=row["id"],
        key=row.get("key"),
        amount=Money(row["amount"] if amount is None else amount, row["currency"]),
        fee=row.get("fee", 0),
        created_at=datetime.fromtimestamp(row["created"], UTC),
        status=status,
    )


def _outcome(charge: Mapping[str, Any], *, message: str = "") -> ChargeOutcome:
    reference = charge["id"]
    match charge["status"]:
        case "succeeded":
            amount = Money(charge["captured"], charge["currency"])
            return Charged(reference=reference, amount=amount, fee=charge["fee"])
        case "authorized":
            return Authorized(
                reference=reference, amount=Money(charge["amount"], charge["currency"])
            )
        case "requires_action":
            return ActionRequired(reference=reference, url=charge.get("action_url"))
        case "canceled":
            return Canceled(reference=reference)
        case "failed":
            code = charge["decline_code"]
            return Declined(
                decline_class=DECLINES.get(code, DeclineClass.RETRY_LATER),
                code=code,
                message=message,
                reference=reference,
            )
        case other:
            return Uncertain(reason=f"the sandbox says {other}", reference=reference)


def create() -> SandboxProvider:
    """The plug-in's entry point."""
    return SandboxProvider(SandboxProviderSettings())
