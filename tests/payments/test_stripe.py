"""What of the Stripe adapter needs no server: amounts, declines, signatures, webhooks."""

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from services.payments.providers.base import (
    ActionRequired,
    Authorized,
    Canceled,
    Charged,
    ChargeOutcome,
    ChargeRequest,
    DeclineClass,
    Declined,
    ForgedWebhook,
    Uncertain,
)
from services.payments.providers.stripe import StripeProvider, StripeSettings
from services.payments.providers.stripe.amounts import from_stripe, to_stripe
from services.payments.providers.stripe.reading import (
    classify,
    decline_of,
    dispute_of,
    moves_money,
    outcome_of,
)
from shared.money import Money

SECRET, OLD_SECRET = "whsec_new", "whsec_old"
NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
async def provider() -> AsyncIterator[StripeProvider]:
    made = StripeProvider(
        StripeSettings(
            api_key=SecretStr("sk_test_1"),
            webhook_secret=SecretStr(f"{SECRET},{OLD_SECRET}"),
            url="http://127.0.0.1:9",
        )
    )
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("money", "sent"),
    [
        (Money(1999, "EUR"), 1999),
        (Money(500, "JPY"), 500),
        (Money(5, "ISK"), 500),
        (Money(5, "UGX"), 500),
        (Money(1230, "KWD"), 1230),
        (Money(700, "MGA"), 7),
    ],
)
def test_amounts_are_sent_as_stripe_counts_them_and_come_back(money: Money, sent: int) -> None:
    assert to_stripe(money) == sent
    assert from_stripe(sent, money.currency.lower()) == money


@pytest.mark.parametrize("money", [Money(1231, "KWD"), Money(701, "MGA")])
def test_what_stripe_cannot_take_is_not_rounded(money: Money) -> None:
    with pytest.raises(ValueError, match=money.currency):
        to_stripe(money)


@given(st.integers(0, 10**8), st.sampled_from(["EUR", "JPY", "ISK", "KWD", "MGA", "USD", "UGX"]))
def test_no_amount_changes_on_its_way(amount: int, currency: str) -> None:
    money = Money(amount, currency)
    try:
        sent = to_stripe(money)
    except ValueError:
        return
    assert from_stripe(sent, currency) == money


@pytest.mark.parametrize(
    ("code", "decline_class"),
    [
        ("insufficient_funds", DeclineClass.RETRY_LATER),
        ("issuer_not_available", DeclineClass.RETRY_LATER),
        ("processing_error", DeclineClass.RETRY_LATER),
        ("expired_card", DeclineClass.NEW_CARD),
        ("lost_card", DeclineClass.NEW_CARD),
        ("stolen_card", DeclineClass.NEW_CARD),
        ("fraudulent", DeclineClass.STOP),
    ],
)
def test_declines_are_classified(code: str, decline_class: DeclineClass) -> None:
    assert classify(code) is decline_class


def an_intent(status: str, **more: Any) -> stripe.PaymentIntent:
    """As the SDK makes it of an answer."""
    usual = {
        "id": "pi_1",
        "object": "payment_intent",
        "status": status,
        "amount": 1999,
        "amount_received": 0,
        "amount_capturable": 0,
        "currency": "eur",
        "client_secret": "pi_1_secret",
        "latest_charge": None,
        "next_action": None,
        "last_payment_error": None,
        "metadata": {"perennial_key": "abc"},
    }
    made: stripe.PaymentIntent = stripe.PaymentIntent.construct_from(usual | more, "sk_test_1")
    return made


FEE = {"id": "ch_1", "balance_transaction": {"id": "txn_1", "fee": 53, "currency": "eur"}}
IN_DOLLARS = {"id": "ch_1", "balance_transaction": {"id": "txn_1", "fee": 61, "currency": "usd"}}
EUR = Money(1999, "EUR")


@pytest.mark.parametrize(
    ("intent", "outcome"),
    [
        (
            an_intent("succeeded", amount_received=1999, latest_charge=FEE),
            Charged(reference="pi_1", amount=EUR, fee=53),
        ),
        (
            an_intent("succeeded", amount_received=1999, latest_charge=IN_DOLLARS),
            Charged(reference="pi_1", amount=EUR, fee=0),
        ),
        (
            an_intent("succeeded", amount_received=1999, latest_charge="ch_1"),
            Charged(reference="pi_1", amount=EUR, fee=0),
        ),
        (
            an_intent("requires_capture", amount_capturable=1999),
            Authorized(reference="pi_1", amount=EUR),
        ),
        (
            an_intent("requires_action", next_action={"type": "use_stripe_sdk"}),
            ActionRequired(reference="pi_1", client_secret="pi_1_secret"),
        ),
        (
            an_intent(
                "requires_action",
                next_action={
                    "type": "redirect_to_url",
                    "redirect_to_url": {"url": "https://bank.example/1"},
                },
            ),
            ActionRequired(
                reference="pi_1", url="https://bank.example/1", client_secret="pi_1_secret"
            ),
        ),
        (
            an_intent(
                "requires_payment_method", last_payment_error={"code": "authentication_required"}
            ),
            ActionRequired(reference="pi_1", client_secret="pi_1_secret"),
        ),
        (
            an_intent(
                "requires_payment_method",
                last_payment_error={"code": "card_declined", "decline_code": "lost_card"},
            ),
            Declined(decline_class=DeclineClass.NEW_CARD, code="lost_card", reference="pi_1"),
        ),
        (an_intent("canceled"), Canceled(reference="pi_1")),
        (
            an_intent("canceled", last_payment_error={"code": "authentication_required"}),
            Canceled(reference="pi_1"),
        ),
        (
            an_intent(
                "canceled",
                last_payment_error={"code": "card_declined", "decline_code": "insufficient_funds"},
            ),
            Declined(
                decline_class=DeclineClass.RETRY_LATER, code="insufficient_funds", reference="pi_1"
            ),
        ),
        (an_intent("processing"), Uncertain(reason="Stripe says processing", reference="pi_1")),
        (an_intent("of_next_year"), Uncertain(reason="Stripe says of_next_year", reference="pi_1")),
    ],
)
def test_each_state_of_an_intent_is_understood(
    intent: stripe.PaymentIntent, outcome: ChargeOutcome
) -> None:
    assert outcome_of(intent) == outcome


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (
            {"code": "authentication_required", "payment_intent": {"id": "pi_1"}},
            ActionRequired(reference="pi_1"),
        ),
        (
            {
                "code": "card_declined",
                "decline_code": "fraudulent",
                "payment_intent": {"id": "pi_1"},
                "message": "No.",
            },
            Declined(
                decline_class=DeclineClass.STOP, code="fraudulent", message="No.", reference="pi_1"
            ),
        ),
        (
            {"code": "expired_card"},
            Declined(decline_class=DeclineClass.NEW_CARD, code="expired_card"),
        ),
    ],
)
def test_a_402_is_a_decline_or_waits_for_the_payer(
    error: dict[str, Any], outcome: ChargeOutcome
) -> None:
    sent = {"error": {"type": "card_error", **error}}
    raised = stripe.CardError(  # type: ignore[no-untyped-call]  # the SDK's own gap
        error.get("message"), "", error["code"], json_body=sent
    )

    assert decline_of(raised) == outcome


def a_dispute(status: str) -> stripe.Dispute:
    lines = [
        {"id": "txn_1", "fee": 1500, "currency": "eur"},
        {"id": "txn_2", "fee": 700, "currency": "usd"},
    ]
    made: stripe.Dispute = stripe.Dispute.construct_from(
        {
            "id": "dp_1",
            "object": "dispute",
            "status": status,
            "amount": 1999,
            "currency": "eur",
            "reason": "fraudulent",
            "balance_transactions": lines,
            "payment_intent": an_intent("succeeded"),
        },
        "sk_test_1",
    )
    return made


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        ("needs_response", "open"),
        ("under_review", "open"),
        ("won", "won"),
        ("lost", "lost"),
    ],
)
def test_a_dispute_is_understood(status: str, ours: str) -> None:
    found = dispute_of(a_dispute(status))

    assert (found.status, found.key, found.charge) == (ours, "abc", "pi_1")
    assert (found.amount, found.fee) == (EUR, 1500)


@pytest.mark.parametrize("status", ["warning_needs_response", "warning_under_review"])
def test_an_inquiry_moves_no_money(status: str) -> None:
    assert not moves_money(a_dispute(status))
    assert moves_money(a_dispute("needs_response"))


async def test_what_cannot_be_said_exactly_is_refused_before_the_call(
    provider: StripeProvider,
) -> None:
    """Nothing listens at the address: an answer can only have been made here."""
    outcome = await provider.charge(
        ChargeRequest(key="k", amount=Money(1231, "KWD"), method="pm_1")
    )

    assert isinstance(outcome, Declined)
    assert outcome.code == "amount_not_supported"


def test_a_confirmed_card_is_understood(provider: StripeProvider) -> None:
    setup = {"id": "seti_1", "object": "setup_intent", "payment_method": "pm_1"}

    def notice(kind: str) -> Any:
        event = {"id": "evt_1", "type": kind, "data": {"object": setup}}
        return provider.read(json.dumps(event).encode())

    confirmed = notice("setup_intent.succeeded")
    assert (confirmed.about, confirmed.reference, confirmed.confirmed) == ("method", "pm_1", True)
    assert confirmed.method is None
    assert not notice("setup_intent.setup_failed").confirmed


BODY = json.dumps(
    {
        "id": "evt_1",
        "type": "payment_intent.succeeded",
        "data": {"object": {"id": "pi_1", "metadata": {"perennial_key": "abc"}}},
    }
).encode()


def header(*secrets: str, at: datetime = NOW, body: bytes = BODY) -> dict[str, str]:
    stamp = int(at.timestamp())
    signed = f"{stamp}.".encode() + body
    parts = [hmac.new(s.encode(), signed, hashlib.sha256).hexdigest() for s in secrets]
    return {"stripe-signature": ",".join([f"t={stamp}", *(f"v1={part}" for part in parts)])}


@pytest.mark.parametrize(
    "headers",
    [
        header(SECRET),
        header(OLD_SECRET),
        header("whsec_unknown", SECRET),
        {"stripe-signature": header(SECRET)["stripe-signature"] + ",v0=ignored"},
        header(SECRET, at=NOW - timedelta(seconds=300)),
    ],
)
def test_a_true_signature_is_taken_also_while_the_secret_is_replaced(
    provider: StripeProvider, headers: dict[str, str]
) -> None:
    provider.verify(headers=headers, body=BODY, now=NOW)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"stripe-signature": ""},
        {"stripe-signature": "t=abc,v1=00"},
        header("whsec_unknown"),
        header(SECRET, body=BODY + b" "),
        header(SECRET, at=NOW - timedelta(seconds=301)),
        # The SDK takes these; a replay that was prepared ahead is refused here.
        header(SECRET, at=NOW + timedelta(seconds=301)),
        {"stripe-signature": header(SECRET)["stripe-signature"].replace("v1=", "v0=")},
        {"stripe-signature": header(SECRET)["stripe-signature"].split(",")[1]},
    ],
)
def test_a_forged_signature_is_refused(provider: StripeProvider, headers: dict[str, str]) -> None:
    with pytest.raises(ForgedWebhook):
        provider.verify(headers=headers, body=BODY, now=NOW)


def test_ours_and_the_sdk_agree_on_a_signature(provider: StripeProvider) -> None:
    now = datetime.now(UTC)  # noqa: TID251  (the SDK reads the machine's clock)
    headers = header(SECRET, at=now)
    provider.verify(headers=headers, body=BODY, now=now)

    assert stripe.WebhookSignature.verify_header(
        BODY.decode(), headers["stripe-signature"], SECRET, 300
    )


@pytest.mark.parametrize(
    ("kind", "about"),
    [
        ("payment_intent.succeeded", "charge"),
        ("payment_intent.payment_failed", "charge"),
        ("charge.dispute.created", "dispute"),
        ("charge.dispute.closed", "dispute"),
        ("refund.updated", "refund"),
        ("payout.paid", "payout"),
        ("payment_method.automatically_updated", "method"),
        ("customer.created", "other"),
    ],
)
def test_webhooks_are_read(provider: StripeProvider, kind: str, about: str) -> None:
    body = json.dumps({"id": "evt", "type": kind, "data": {"object": {"id": "x"}}}).encode()

    assert provider.read(body).about == about


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"type": 1}', b'{"id": "e", "type": "a"}'])
def test_what_is_no_event_is_refused(provider: StripeProvider, body: bytes) -> None:
    with pytest.raises(ForgedWebhook):
        provider.read(body)


def test_the_sdk_sends_no_telemetry(provider: StripeProvider) -> None:
    assert provider.name == "stripe"
    assert stripe.enable_telemetry is False
