"""The providers that go through the conformance suite, and what each needs for its cases.

A plug-in of your own joins them without a change here: `TEST_PROVIDER=acme_testing:candidate`
names an asynchronous context manager without parameters that yields a `Candidate`.
"""

import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from services.payments.providers.base import (
    ChargeRequest,
    Method,
    NoticeAbout,
    PaymentProvider,
)
from services.payments.providers.sandbox import SandboxProvider, SandboxProviderSettings
from services.payments.providers.stripe import StripeProvider, StripeSettings
from shared.ids import new_id
from shared.money import Money
from tests.payments.servers import SECRET, Sandbox

OLD_SECRET = "whsec_before"
TEN = Money(1000, "EUR")
#: A server that is there answers long before; only one that never answers lets it pass.
PATIENT_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A provider on a real server, and how to make each thing happen there.

    What a provider (or its test server) cannot do is left out, and those cases are skipped.
    """

    provider: PaymentProvider
    #: Tokens by what happens: `ok`, the decline classes, `action`, `confirm_first`,
    #: `timeout_before` and `timeout_after` (the first answer under a key is lost).
    tokens: Mapping[str, str]
    #: The headers of a webhook with this body, signed at an instant by a secret.
    sign: Callable[[bytes, datetime, str], dict[str, str]]
    #: The body of a webhook, by its event id: what it is about, the provider's name of the thing
    #: and our key on it.
    webhook: Callable[[str, NoticeAbout, str, str | None], bytes]
    #: Of the two secrets in use, the new one first.
    secrets: tuple[str, str] = (SECRET, OLD_SECRET)
    #: The same plug-in against another address, giving up after half a second.
    against: Callable[[str], PaymentProvider] | None = None
    #: What others do at the provider, by name; each takes a reference and may return one:
    #: `confirm` a charge, `dispute` a charge, `win` and `lose` a dispute, `pay_out`,
    #: `fail_payout`, `fail_refund`.
    acts: Mapping[str, Callable[[str], Awaitable[str]]] = field(default_factory=dict)

    def token(self, case: str) -> str:
        if case not in self.tokens:
            pytest.skip(f"{self.provider.name} has no token for {case}")
        return self.tokens[case]

    async def act(self, what: str, reference: str = "") -> str:
        if what not in self.acts:
            pytest.skip(f"{self.provider.name} cannot be made to {what}")
        return await self.acts[what](reference)

    async def attach(self, case: str) -> Method:
        token = self.token(case)
        return await self.provider.attach(
            key=f"attach:{new_id()}", token=token, account=str(new_id())
        )

    async def request(self, case: str, amount: Money = TEN, **more: Any) -> ChargeRequest:
        """A charge with a new method of that kind."""
        method = await self.attach(case)
        return ChargeRequest(
            key=str(new_id()),
            amount=amount,
            method=method.reference,
            customer=method.customer,
            metadata={"invoice_id": str(new_id())},
            **more,
        )


Candidates = Callable[[], AbstractAsyncContextManager[Candidate]]


def timestamped(header: str) -> Callable[[bytes, datetime, str], dict[str, str]]:
    """Signatures as Stripe made them common: `t=…,v1=…` over `t.body`."""

    def sign(body: bytes, at: datetime, secret: str) -> dict[str, str]:
        stamp = int(at.timestamp())
        signed = f"{stamp}.".encode() + body
        digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        return {header: f"t={stamp},v1={digest}"}

    return sign


def named_elsewhere() -> Candidates | None:
    """The candidate that TEST_PROVIDER names."""
    given = os.environ.get("TEST_PROVIDER")
    if not given:
        return None
    module, _, attribute = given.partition(":")
    found: Candidates = getattr(import_module(module), attribute or "candidate")
    return found


@asynccontextmanager
async def the_sandbox(sandbox: Sandbox) -> AsyncIterator[Candidate]:
    def made(url: str, seconds: float) -> SandboxProvider:
        return SandboxProvider(
            SandboxProviderSettings(
                url=url, webhook_secret=f"{SECRET},{OLD_SECRET}", timeout_seconds=seconds
            )
        )

    def webhook(event_id: str, about: NoticeAbout, reference: str, key: str | None) -> bytes:
        kind = {"method": "payment_method"}.get(about, about)
        data: dict[str, Any] = {"id": reference, "key": key, "brand": "b", "last4": "4242"}
        data |= {"exp_month": 1, "exp_year": 2041} if about == "method" else {}
        return json.dumps({"id": event_id, "type": f"{kind}.updated", "data": data}).encode()

    async with httpx.AsyncClient(base_url=sandbox.url, timeout=PATIENT_SECONDS) as http:

        def post(path: str, body: dict[str, Any] | None = None) -> Callable[[str], Awaitable[str]]:
            async def act(reference: str) -> str:
                answer = (await http.post(path.format(reference), json=body)).json()
                made = answer["data"][0] if "data" in answer else answer
                return str(made["id"])

            return act

        provider = made(sandbox.url, PATIENT_SECONDS)
        yield Candidate(
            provider=provider,
            tokens={
                "ok": "tok_ok",
                "retry_later": "tok_insufficient_funds",
                "new_card": "tok_expired_card",
                "stop": "tok_fraud",
                "action": "tok_requires_action",
                "confirm_first": "tok_confirm_first",
                "timeout_before": "tok_timeout_before",
                "timeout_after": "tok_timeout_after",
            },
            sign=timestamped("sandbox-signature"),
            webhook=webhook,
            against=lambda url: made(url, 0.5),
            acts={
                "confirm": post("/v1/charges/{}/confirm", {"success": True}),
                "dispute": post("/v1/charges/{}/dispute", {}),
                "win": post("/v1/disputes/{}/close", {"won": True}),
                "lose": post("/v1/disputes/{}/close", {"won": False}),
                "pay_out": post("/v1/payouts"),
                "fail_payout": post("/v1/payouts/{}/fail"),
                "fail_refund": post("/v1/refunds/{}/fail"),
            },
        )
        await provider.close()


@asynccontextmanager
async def stripe_itself(url: str) -> AsyncIterator[Candidate]:
    """Stripe as far as localstripe and the shim go (tests/payments/stripe_shim.py)."""

    def made(address: str, seconds: float) -> StripeProvider:
        return StripeProvider(
            StripeSettings(
                api_key=SecretStr("sk_test_1"),
                webhook_secret=SecretStr(f"{SECRET},{OLD_SECRET}"),
                url=address,
                timeout_seconds=seconds,
            )
        )

    kinds: dict[NoticeAbout, str] = {
        "charge": "payment_intent.succeeded",
        "refund": "refund.updated",
        "dispute": "charge.dispute.updated",
        "payout": "payout.paid",
        "method": "payment_method.automatically_updated",
        "other": "customer.created",
    }

    def webhook(event_id: str, about: NoticeAbout, reference: str, key: str | None) -> bytes:
        metadata = {"perennial_key": key} if key else {}
        thing = {"id": reference, "metadata": metadata, "card": {"exp_month": 1, "exp_year": 2041}}
        event = {"id": event_id, "type": kinds[about], "data": {"object": thing}}
        return json.dumps(event).encode()

    auth = httpx.BasicAuth("sk_test_1", "")
    async with httpx.AsyncClient(base_url=url, timeout=PATIENT_SECONDS, auth=auth) as http:

        def happen(path: str) -> Callable[[str], Awaitable[str]]:
            async def act(reference: str) -> str:
                answer = await http.post(f"/_shim/{path.format(reference)}")
                return str(answer.json()["id"])

            return act

        async def confirm(intent: str) -> str:
            """As Stripe's script does it in the payer's browser."""
            path = f"/v1/payment_intents/{intent}"
            secret = (await http.get(path)).json()["client_secret"]
            sent = {"client_secret": secret, "success": "true"}
            answer = await http.post(f"{path}/_authenticate", data=sent)
            return str(answer.json()["id"])

        provider = made(url, PATIENT_SECONDS)
        yield Candidate(
            provider=provider,
            tokens={
                "ok": "pm_shim_ok",
                "retry_later": "pm_shim_insufficient_funds",
                "new_card": "pm_shim_expired_card",
                "stop": "pm_shim_fraudulent",
                "action": "pm_shim_action",
                "confirm_first": "pm_shim_confirm_first",
                "timeout_before": "pm_shim_timeout_before",
                "timeout_after": "pm_shim_timeout_after",
            },
            sign=timestamped("stripe-signature"),
            webhook=webhook,
            against=lambda address: made(address, 0.5),
            acts={
                "confirm": confirm,
                "dispute": happen("dispute/{}"),
                "win": happen("close/{}/won"),
                "lose": happen("close/{}/lost"),
                "pay_out": happen("payout"),
                "fail_payout": happen("fail/{}"),
                "fail_refund": happen("fail/{}"),
            },
        )
        await provider.close()
