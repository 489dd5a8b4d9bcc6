"""What every provider must do; each built-in one goes through the same cases."""

import asyncio
import hashlib
import hmac
import importlib.util
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from services.payments.providers.base import (
    ActionRequired,
    Authorized,
    Canceled,
    Charged,
    ChargeRequest,
    DeclineClass,
    Declined,
    ForgedWebhook,
    MethodRefused,
    NeverHeard,
    PaymentProvider,
    Refunded,
    RefundRefused,
    RefundRequest,
    Uncertain,
)
from services.payments.providers.sandbox import SandboxProvider, SandboxProviderSettings
from services.payments.providers.stripe import StripeProvider, StripeSettings
from shared.ids import new_id
from shared.money import Money
from tests.payments.servers import SECRET, Sandbox
from tests.payments.stripe_shim import stripe_like

pytestmark = [
    pytest.mark.servers,
    # The Stripe SDK hands httpx a body in a way that httpx has come to dislike.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:httpx"),
]

TEN = Money(1000, "EUR")


@dataclass(frozen=True)
class Candidate:
    """A provider and the tokens that make it do each thing; one it cannot do is left out."""

    provider: PaymentProvider
    tokens: dict[str, str] = field(default_factory=dict)

    def token(self, case: str) -> str:
        if case not in self.tokens:
            pytest.skip(f"{self.provider.name} has no token for {case}")
        return self.tokens[case]

    async def request(self, case: str, amount: Money = TEN, **more: object) -> ChargeRequest:
        account = str(new_id())
        method = await self.provider.attach(
            key=f"attach:{new_id()}", token=self.token(case), account=account
        )
        request = ChargeRequest(
            key=str(new_id()),
            amount=amount,
            method=method.reference,
            customer=method.customer,
            metadata={"invoice_id": str(new_id())},
        )
        return ChargeRequest(**{name: getattr(request, name) for name in request.__slots__} | more)


SANDBOX_TOKENS = {
    "ok": "tok_ok",
    "retry_later": "tok_insufficient_funds",
    "new_card": "tok_expired_card",
    "stop": "tok_fraud",
    "action": "tok_requires_action",
    "timeout_before": "tok_timeout_before",
    "timeout_after": "tok_timeout_after",
}


STRIPE_TOKENS = {
    "ok": "pm_shim_ok",
    "retry_later": "pm_shim_insufficient_funds",
    "new_card": "pm_shim_expired_card",
    "stop": "pm_shim_fraudulent",
    "action": "pm_shim_action",
    "timeout_before": "pm_shim_timeout_before",
    "timeout_after": "pm_shim_timeout_after",
}


def with_localstripe() -> str | None:
    """The Python that has localstripe: this one, or the one that TEST_LOCALSTRIPE names."""
    here = sys.executable if importlib.util.find_spec("localstripe") else None
    return os.environ.get("TEST_LOCALSTRIPE") or here


@pytest.fixture(scope="session")
def stripe_url() -> Iterator[str]:
    """Stripe as far as localstripe and the shim go (tests/payments/stripe_shim.py)."""
    python = with_localstripe()
    if python is None:
        pytest.skip("localstripe is not installed; TEST_LOCALSTRIPE may name a Python that has it")
    with stripe_like(python) as url:
        yield url


def a_sandbox(sandbox: Sandbox) -> SandboxProvider:
    return SandboxProvider(
        SandboxProviderSettings(url=sandbox.url, webhook_secret=SECRET, timeout_seconds=0.7)
    )


@pytest.fixture(params=["sandbox", "stripe"])
async def candidate(request: pytest.FixtureRequest) -> AsyncIterator[Candidate]:
    provider: PaymentProvider
    if request.param == "sandbox":
        provider, tokens = a_sandbox(request.getfixturevalue("sandbox")), SANDBOX_TOKENS
    else:
        settings = StripeSettings(
            api_key=SecretStr("sk_test_1"),
            webhook_secret=SecretStr(SECRET),
            url=request.getfixturevalue("stripe_url"),
            timeout_seconds=0.9,
        )
        provider, tokens = StripeProvider(settings), STRIPE_TOKENS
    yield Candidate(provider, tokens)
    await provider.close()


@pytest.fixture
async def sandbox_alone(sandbox: Sandbox) -> AsyncIterator[SandboxProvider]:
    provider = a_sandbox(sandbox)
    yield provider
    await provider.close()


async def test_a_charge_takes_the_money_once_and_is_found_by_our_key(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    first = await candidate.provider.charge(request)
    again = await candidate.provider.charge(request)

    assert isinstance(first, Charged)
    assert first.amount == TEN
    assert 0 <= first.fee < TEN.amount
    assert again == first
    found = await candidate.provider.look_up(key=request.key, reference=first.reference)
    assert found == first


async def test_the_same_key_with_other_parameters_takes_nothing(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    await candidate.provider.charge(request)
    other = ChargeRequest(key=request.key, amount=Money(5, "EUR"), method=request.method)

    assert not isinstance(await candidate.provider.charge(other), Charged)


async def test_many_at_once_under_one_key_are_one_charge(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    outcomes = await asyncio.gather(*(candidate.provider.charge(request) for _ in range(10)))

    charged = {outcome.reference for outcome in outcomes if isinstance(outcome, Charged)}
    assert len(charged) == 1
    assert all(isinstance(outcome, Charged | Uncertain) for outcome in outcomes)


@pytest.mark.parametrize("decline_class", list(DeclineClass))
async def test_declines_are_classified(candidate: Candidate, decline_class: DeclineClass) -> None:
    request = await candidate.request(decline_class.value)
    outcome = await candidate.provider.charge(request)

    assert isinstance(outcome, Declined)
    assert outcome.decline_class is decline_class
    found = await candidate.provider.look_up(key=request.key, reference=outcome.reference)
    assert isinstance(found, Declined)


async def test_an_unknown_token_is_refused(candidate: Candidate) -> None:
    with pytest.raises(MethodRefused):
        await candidate.provider.attach(key="k", token="tok_nonsense", account="a")


async def test_a_charge_may_wait_for_the_payer_and_be_given_up(candidate: Candidate) -> None:
    request = await candidate.request("action")
    waiting = await candidate.provider.charge(request)
    assert isinstance(waiting, ActionRequired)

    found = await candidate.provider.look_up(key=request.key, reference=waiting.reference)
    assert isinstance(found, ActionRequired)
    gone = await candidate.provider.cancel(key=f"{request.key}:cancel", charge=waiting.reference)
    assert isinstance(gone, Canceled)
    found = await candidate.provider.look_up(key=request.key, reference=waiting.reference)
    assert isinstance(found, Canceled)


async def test_giving_up_a_charge_that_took_the_money_says_so(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    charged = await candidate.provider.charge(request)
    assert isinstance(charged, Charged)

    late = await candidate.provider.cancel(key=f"{request.key}:c", charge=charged.reference)
    assert isinstance(late, Charged)


async def test_money_may_be_reserved_and_taken_in_part(candidate: Candidate) -> None:
    request = await candidate.request("ok", capture=False)
    held = await candidate.provider.charge(request)
    assert isinstance(held, Authorized)

    taken = await candidate.provider.capture(
        key=f"{request.key}:capture", charge=held.reference, amount=Money(400, "EUR")
    )
    assert isinstance(taken, Charged)
    assert taken.amount == Money(400, "EUR")


async def test_refunds_are_sent_once_and_never_above_the_charge(candidate: Candidate) -> None:
    charged = await candidate.provider.charge(await candidate.request("ok"))
    assert isinstance(charged, Charged)
    part = RefundRequest(key=str(new_id()), charge=charged.reference, amount=Money(600, "EUR"))

    first = await candidate.provider.refund(part)
    assert isinstance(first, Refunded)
    assert await candidate.provider.refund(part) == first
    found = await candidate.provider.look_up_refund(key=part.key, charge=charged.reference)
    assert found == first
    over = RefundRequest(key=str(new_id()), charge=charged.reference, amount=Money(401, "EUR"))
    assert isinstance(await candidate.provider.refund(over), RefundRefused)


async def test_what_it_never_heard_of_it_says_so(candidate: Candidate) -> None:
    charged = await candidate.provider.charge(await candidate.request("ok"))
    assert isinstance(charged, Charged)

    assert isinstance(await candidate.provider.look_up(key=str(new_id())), NeverHeard)
    refund = await candidate.provider.look_up_refund(key=str(new_id()), charge=charged.reference)
    assert isinstance(refund, NeverHeard)


async def test_a_time_out_before_the_charge_took_nothing_and_the_same_key_works(
    candidate: Candidate,
) -> None:
    request = await candidate.request("timeout_before")
    assert isinstance(await candidate.provider.charge(request), Uncertain)
    assert isinstance(await candidate.provider.look_up(key=request.key), NeverHeard)

    assert isinstance(await candidate.provider.charge(request), Charged)


async def test_a_time_out_after_the_charge_is_found_by_our_key(candidate: Candidate) -> None:
    request = await candidate.request("timeout_after")
    assert isinstance(await candidate.provider.charge(request), Uncertain)

    found = await candidate.provider.look_up(key=request.key)
    assert isinstance(found, Charged)
    assert await candidate.provider.charge(request) == found


async def test_currencies_and_limits_are_declared(candidate: Candidate) -> None:
    assert candidate.provider.limits("XXX") is None
    limits = candidate.provider.limits("EUR")
    assert limits is not None
    assert limits.minimum <= 1000 <= limits.maximum
    assert candidate.provider.limits("JPY") is not None


async def test_its_books_hold_what_it_charged_and_sent_back(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    charged = await candidate.provider.charge(request)
    assert isinstance(charged, Charged)
    refund = RefundRequest(key=str(new_id()), charge=charged.reference, amount=Money(1, "EUR"))
    await candidate.provider.refund(refund)

    since = datetime.now(UTC) - timedelta(minutes=1)  # noqa: TID251  (a test's own clock)
    books = {line.key: line async for line in candidate.provider.movements(since=since)}
    assert books[request.key].amount == TEN
    assert books[refund.key].kind == "refund"


def signed(body: bytes, *, secret: str = SECRET, age: int = 0) -> dict[str, str]:
    stamp = int(time.time()) - age
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return {"sandbox-signature": f"t={stamp},v1={digest}"}


BODY = json.dumps({"id": "evt_1", "type": "charge.succeeded", "data": {"id": "ch_1"}}).encode()


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY),
        (signed(BODY), BODY + b" "),
        (signed(BODY, secret="whsec_other"), BODY),
        (signed(BODY, age=301), BODY),
        (signed(BODY, age=-3600), BODY),
        ({"sandbox-signature": "t=99999999999999999999,v1=00"}, BODY),
        ({"sandbox-signature": "t=é,v1=é"}, BODY),
    ],
)
async def test_a_forged_webhook_is_refused(
    sandbox_alone: SandboxProvider, headers: dict[str, str], body: bytes
) -> None:
    now = datetime.now(UTC)  # noqa: TID251  (a test's own clock)
    with pytest.raises(ForgedWebhook):
        sandbox_alone.verify(headers=headers, body=body, now=now)


async def test_a_true_webhook_is_read(sandbox_alone: SandboxProvider) -> None:
    now = datetime.now(UTC)  # noqa: TID251  (a test's own clock)
    sandbox_alone.verify(headers=signed(BODY), body=BODY, now=now)
    notice = sandbox_alone.read(BODY)

    assert (notice.event_id, notice.about, notice.reference) == ("evt_1", "charge", "ch_1")
