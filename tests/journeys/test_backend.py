"""The operator's own backend, with nothing but a key: every service, through the gateway."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.demo.client import Client, until
from tests.journeys.conftest import Patient
from tests.whole_system import WholeSystem, a_key

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def key(whole_system: WholeSystem) -> str:
    return a_key(whole_system)


@pytest.fixture(scope="module")
def backend(whole_system: WholeSystem, key: str) -> Iterator[Client]:
    with Client(whole_system.base_url, key) as client:
        yield client


@pytest.fixture(scope="module")
def price(backend: Client) -> dict[str, Any]:
    """Of a plan whose subscribers may do nothing themselves."""
    code = uuid4().hex[:8]
    plan = backend.post(
        "/v1/plans",
        code=f"backend-{code}",
        name="Backend",
        self_service={"changes": [], "cancel": [], "pause": False, "coupons": False},
    )
    made: dict[str, Any] = backend.post(
        "/v1/prices",
        plan_id=plan["id"],
        currency="EUR",
        type="per_unit",
        interval="month",
        unit_amount=1000,
    )
    backend.post(f"/v1/plans/{plan['id']}/publish")
    return made


@pytest.fixture(scope="module")
def account(backend: Client) -> dict[str, Any]:
    made: dict[str, Any] = backend.post(
        "/v1/accounts",
        name="Acme Rockets",
        external_id=f"cust-{uuid4()}",
        email=f"{uuid4().hex}@example.com",
        metadata={"tier": "gold"},
        country="DE",
        time_zone="Europe/Berlin",
        language="de",
        currency="EUR",
    )
    return made


@pytest.fixture(scope="module")
def acting(whole_system: WholeSystem, key: str, account: dict[str, Any]) -> Iterator[Client]:
    """The backend for that account."""
    with Client(whole_system.base_url, key, account["id"]) as client:
        until("subscriptions and invoicing know the account", lambda: _is_known(client))
        yield client


def _is_known(client: Client) -> bool:
    return client.http.get("/v1/billing-details").status_code == HTTPStatus.OK


@pytest.fixture(scope="module")
def subscription(acting: Client, price: dict[str, Any]) -> dict[str, Any]:
    """Paid by a card that the backend attached."""
    acting.post("/v1/payment-methods", provider="sandbox", token="tok_ok")
    answer = until(
        "the account can subscribe",
        lambda: _started(acting, price["id"]),
    )
    found: dict[str, Any] = until(
        "the subscription is active",
        lambda: _if(
            acting.get(f"/v1/subscriptions/{answer['id']}"), lambda one: one["status"] == "active"
        ),
    )
    return found


def _started(acting: Client, price_id: str) -> Any:
    answer = acting.http.post(
        "/v1/subscriptions",
        json={"price_id": price_id, "quantity": 2},
        headers={"Idempotency-Key": str(uuid4())},
    )
    return answer.json() if answer.is_success else None


def _if(found: Any, condition: Any) -> Any:
    return found if condition(found) else None


def test_it_sells_and_bills_without_anybody_in_the_account(
    backend: Client, acting: Client, account: dict[str, Any], subscription: dict[str, Any]
) -> None:
    (found,) = backend.get("/v1/accounts", external_id=account["external_id"])["data"]
    details = acting.get("/v1/billing-details")
    invoice = acting.get(f"/v1/invoices/{subscription['latest_invoice_id']}")
    listed = backend.get("/v1/invoices", limit=200)["data"]

    assert found["id"] == account["id"] == subscription["account_id"]
    assert details["language"] == "de"
    assert (invoice["status"], invoice["account_id"]) == ("paid", account["id"])
    assert invoice["bill_to"]["language"] == "de"
    assert invoice["id"] in {one["id"] for one in listed}
    assert acting.download(f"/v1/invoices/{invoice['id']}/pdf").startswith(b"%PDF")
    assert backend.get("/v1/subscriptions", limit=200)["data"]


def test_it_does_what_subscribers_may_not(
    whole_system: WholeSystem,
    backend: Client,
    acting: Client,
    account: dict[str, Any],
    subscription: dict[str, Any],
) -> None:
    path = f"/v1/subscriptions/{subscription['id']}"
    session = backend.post("/v1/customer-sessions", account_id=account["id"])
    with Client(whole_system.base_url, session["token"]) as customer:
        theirs = customer.get(path)
        refused = customer.http.post(
            f"{path}/change", json={"quantity": 9}, headers={"Idempotency-Key": str(uuid4())}
        )
        invoices = customer.get("/v1/invoices")["data"]

    preview = acting.post(f"{path}/preview", quantity=3)
    changed = acting.post(f"{path}/change", quantity=3, proration="prorate_next")
    canceled = acting.post(f"{path}/cancel", at_period_end=True, reason="moved")

    assert theirs["id"] == subscription["id"]
    assert (refused.status_code, refused.json()["code"]) == (403, "not-self-service")
    assert {one["account_id"] for one in invoices} == {account["id"]}
    assert preview["next_invoice"]["subtotal"] == 3000
    assert changed["quantity"] == 3
    assert canceled["cancel_at_period_end"] is True


def test_it_gives_money_back_and_reads_the_books(
    backend: Client, acting: Client, subscription: dict[str, Any]
) -> None:
    invoice = acting.get(f"/v1/invoices/{subscription['latest_invoice_id']}")
    payment = acting.get("/v1/payments", invoice_id=invoice["id"])["data"][0]

    note = backend.post(
        "/v1/credit-notes", invoice_id=invoice["id"], amount=100, reason="late", settle="credit"
    )
    refund = backend.post(
        f"/v1/payments/{payment['id']}/refunds", amount={"amount": 200, "currency": "EUR"}
    )
    granted = acting.post(
        "/v1/account-credit", amount={"amount": 500, "currency": "EUR"}, note="sorry"
    )
    by_hand = backend.post(
        "/v1/invoices",
        account_id=invoice["account_id"],
        currency="EUR",
        lines=[{"description": "Setup", "unit_amount": "100"}],
        draft=True,
    )
    export = backend.http.get(
        "/v1/exports/invoices",
        params={"from": "2026-01-01T00:00:00Z", "to": "2030-01-01T00:00:00Z"},
    )

    assert note["credit"]["amount"] == 100
    assert refund["amount"]["amount"] == 200
    assert granted["balances"][0]["amount"] >= 500
    assert by_hand["status"] == "draft"
    assert invoice["number"] in export.text
    assert backend.get("/v1/ledger/balances")["data"]


def test_it_counts_usage_and_asks_what_an_account_may(
    whole_system: WholeSystem, key: str, backend: Client, price: dict[str, Any]
) -> None:
    account = backend.post("/v1/accounts", name="Counted", currency="EUR")
    code = uuid4().hex[:8]
    meter = backend.post("/v1/meters", code=f"m_{code}", name="Calls")
    backend.post(
        "/v1/prices",
        plan_id=price["plan_id"],
        currency="EUR",
        type="metered",
        interval="month",
        unit_amount=1,
        meter_id=meter["id"],
        aggregation="sum",
        component=True,
    )
    with Client(whole_system.base_url, key, account["id"]) as client:
        until("invoicing knows the account", lambda: _is_known(client))
        client.post("/v1/payment-methods", provider="sandbox", token="tok_ok")
        subscription = until("it can subscribe", lambda: _started(client, price["id"]))
        until(
            "the subscription is active",
            lambda: client.get(f"/v1/subscriptions/{subscription['id']}")["status"] == "active",
        )
        counted = client.post(
            "/v1/usage-events/batch",
            events=[
                {
                    "id": f"{code}-{n}",
                    "meter": meter["code"],
                    "value": "2",
                    "subscription_id": subscription["id"],
                }
                for n in range(3)
            ],
        )
        entitlements = client.get("/v1/entitlements")

    assert counted["recorded"] == 3
    assert entitlements["data"] == []


def test_what_is_about_one_account_asks_for_which(backend: Client) -> None:
    for path in ("/v1/billing-details", "/v1/entitlements", "/v1/token-balance", "/v1/usage"):
        answer = backend.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad-request"), path


def test_a_key_is_held_to_its_scopes_in_every_service(
    whole_system: WholeSystem,
) -> None:
    narrow = {"Authorization": f"Bearer {a_key(whole_system, scopes='usage:write')}"}
    with httpx.Client(
        base_url=whole_system.base_url, headers=narrow, transport=Patient(), timeout=60
    ) as http:
        for path in (
            "/v1/accounts",
            "/v1/subscriptions",
            "/v1/invoices",
            "/v1/payments",
            "/v1/coupons",
            "/v1/legal-entities",
            "/v1/ledger/balances",
        ):
            answer = http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing"), path
        for path in ("auth", "subscriptions", "invoicing", "payments"):
            answer = http.get(f"/v1/ops/{path}/outbox")
            assert (answer.status_code, answer.json()["code"]) == (403, "not-for-keys"), path


def test_a_key_is_held_to_its_networks_in_every_service(
    whole_system: WholeSystem, account: dict[str, Any], subscription: dict[str, Any]
) -> None:
    here = a_key(whole_system, "--from", "127.0.0.0/8")
    elsewhere = a_key(whole_system, "--from", "203.0.113.0/24", "--from", "2001:db8::/32")
    paths = ("/v1/accounts", "/v1/subscriptions", "/v1/invoices", "/v1/payments")

    with Client(whole_system.base_url, here, account["id"]) as client:
        for path in paths:
            client.get(path)
        # One service asks another with the key of whoever asked it, and says from where.
        preview = client.post(f"/v1/subscriptions/{subscription['id']}/preview")
    assert "next_invoice" in preview

    with Client(whole_system.base_url, elsewhere) as client:
        traded = client.http.post("/v1/auth/token")
        assert (traded.status_code, traded.json()["code"]) == (403, "address-not-allowed")
        for headers in ({}, {"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}):
            for path in paths:
                answer = client.http.get(path, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (403, "address-not-allowed")


@pytest.mark.usefixtures("subscription")
def test_mails_about_money_reach_the_billing_address(
    whole_system: WholeSystem, account: dict[str, Any]
) -> None:
    mailbox = whole_system.mailbox / account["email"]
    mail = until(
        "a receipt",
        lambda: next((path.read_text() for path in sorted(mailbox.glob("*.txt"))), None),
    )

    assert "INV-" in mail
