"""The demo's story, told once to a whole system: the journeys and the surface start from it."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra.demo.client import Client, newest_mail, until
from infra.demo.story import PASSWORD, Report, Story
from tests.journeys.operations import Operation
from tests.whole_system import WholeSystem


class Patient(httpx.HTTPTransport):
    """Asks again, a second later, what the gateway put off: it all comes from one address.

    What a service itself refuses for a while (an hour, for some) is its answer.
    """

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        while True:
            answer = super().handle_request(request)
            if "gateway" not in answer.headers.get("ratelimit", ""):
                return answer
            answer.close()
            time.sleep(float(answer.headers["retry-after"]))


class Listener:
    """Hears the story: its steps, and the events of each step that had any."""

    def __init__(self) -> None:
        self.facts: list[str] = []
        self.events: list[list[str]] = []

    def report(self) -> Report:
        return Report(step=self._step, fact=self.facts.append, event=self._event)

    def _step(self, _text: str) -> None:
        self.events.append([])

    def _event(self, event: dict[str, Any]) -> None:
        self.events[-1].append(event["name"])


@pytest.fixture(scope="session")
def told(whole_system: WholeSystem) -> tuple[Story, Listener]:
    """The demo's story, told once; it fails where the system does not do as it says."""
    listener = Listener()
    story = Story(
        base_url=whole_system.base_url,
        mailbox=whole_system.mailbox,
        staff_email=whole_system.staff_email,
        staff_password=whole_system.staff_password,
        report=listener.report(),
    )
    story.tell()
    return story, listener


#: Ids of things that everybody sees.
SHARED_IDS = {
    *("plan_id", "price_id", "from_price_id", "to_price_id", "feature", "name", "of"),
    *("meter_id", "feature_id", "product_id"),
}


#: Ids of things that only staff ask for; there is none of them.
MADE_UP = (
    "addon_id",
    "coupon_id",
    "move_id",
    "letter_id",
    "stuck_id",
    "document_id",
    "promotion_code_id",
)


@dataclass(frozen=True)
class Surface:
    """Who asks, and one id of everything that belongs to `owner`."""

    http: httpx.Client
    ids: dict[str, str]
    owner: str
    other: str
    key_without_scopes: str
    staff: str

    def ask(self, operation: Operation, token: str | None, **headers: str) -> httpx.Response:
        sent = {"Idempotency-Key": str(uuid4()), **headers}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        return self.http.request(
            operation.method,
            operation.url(self.ids),
            params=operation.query(self.ids),
            json=operation.body(self.ids),
            headers=sent,
        )


def sign_up(system: WholeSystem) -> tuple[str, str]:
    """An account of its own: its id, and its owner's token."""
    email = f"{uuid4().hex}@example.com"
    with Client(system.base_url) as anybody:
        made = anybody.post("/v1/auth/register", email=email, password=PASSWORD, country="DE")
        token = re.search(r"^Token: (\S+)$", newest_mail(system.mailbox, email), re.MULTILINE)
        assert token
        anybody.post("/v1/auth/verify-email", token=token[1], password=PASSWORD)
        signed_in = anybody.post("/v1/auth/login", email=email, password=PASSWORD)
    return made["account"]["id"], signed_in["access_token"]


@pytest.fixture(scope="session")
def surface(whole_system: WholeSystem, told: tuple[Story, Listener]) -> Iterator[Surface]:
    story, _ = told
    _, other = sign_up(whole_system)
    owner, staff = story.customer_token, story.staff_token
    account = story.account_id
    with (
        Client(whole_system.base_url, owner) as mine,
        Client(whole_system.base_url, staff) as operator,
        httpx.Client(base_url=whole_system.base_url, timeout=60, transport=Patient()) as http,
    ):
        me = mine.get("/v1/me")
        key = mine.post(f"/v1/accounts/{account}/api-keys", name="nothing", scopes=[])
        invitation = mine.post(
            f"/v1/accounts/{account}/invitations", email=f"{uuid4().hex}@example.com", role="member"
        )
        invoices = mine.get("/v1/invoices")["data"]
        note = operator.post(
            "/v1/credit-notes",
            invoice_id=invoices[0]["id"],
            amount=100,
            reason="goodwill",
            settle="credit",
        )
        attachment = mine.post(
            "/v1/attachments",
            filename="order.pdf",
            content_type="application/pdf",
            size=3,
            sha256="0" * 64,
            invoice_id=invoices[0]["id"],
        )
        code = uuid4().hex[:8]
        meter = operator.post("/v1/meters", code=f"m_{code}", name="Calls")
        addon = operator.post("/v1/addons", code=f"a_{code}", name="Calls")
        operator.post(
            "/v1/prices",
            addon_id=addon["id"],
            currency="EUR",
            type="metered",
            interval="month",
            unit_amount=1,
            meter_id=meter["id"],
            aggregation="sum",
        )
        subscription = mine.post(
            "/v1/subscriptions", price_id=story.team["EUR"], addons=[{"addon_id": addon["id"]}]
        )["id"]
        until(
            "the subscription is active",
            lambda: mine.get(f"/v1/subscriptions/{subscription}")["status"] == "active",
        )
        usage = mine.post(
            "/v1/usage-events",
            id=f"first-{code}",
            meter=meter["code"],
            value="1",
            subscription_id=subscription,
        )
        feature = operator.post("/v1/features", code=f"f_{code}", name="F", type="boolean")
        product = operator.post("/v1/products", code=f"p_{code}", name="P")
        bundle = operator.post(
            "/v1/bundles", code=f"b-{code}", name="B", tokens=10, currency="EUR", amount=500
        )
        order = mine.post("/v1/token-balance/purchase", bundle_id=bundle["id"])
        ids = {
            "account_id": account,
            "user_id": me["id"],
            "session_id": mine.get("/v1/me/sessions")["data"][0]["id"],
            "key_id": key["id"],
            "invitation_id": invitation["id"],
            "project_id": mine.post("/v1/projects", name="P", status="active")["id"],
            "subscription_id": subscription,
            "invoice_id": invoices[0]["id"],
            "note_id": note["id"],
            "attachment_id": attachment["id"],
            "payment_id": mine.get("/v1/payments")["data"][0]["id"],
            "method_id": mine.get("/v1/payment-methods")["data"][0]["id"],
            "event_id": usage["id"],
            "meter_id": meter["id"],
            "feature_id": feature["id"],
            "product_id": product["id"],
            "bundle_id": bundle["id"],
            "order_id": order["id"],
            "clock_id": story.clock_id,
            "price_id": story.team["EUR"],
            "from_price_id": story.team["EUR"],
            "to_price_id": story.business["EUR"],
            "plan_id": mine.get(f"/v1/prices/{story.team['EUR']}")["plan_id"],
            "entity_id": operator.get("/v1/legal-entities")["data"][0]["id"],
            **dict.fromkeys(MADE_UP, str(uuid4())),
            "feature": "seats",
            "name": "sandbox",
            "of": "invoices",
        }
        yield Surface(http, ids, owner, other, key["key"], staff)
