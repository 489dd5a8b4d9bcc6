"""The story itself: a key, an account, four months of simulated time, and the books at its end."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

from infra.demo.client import Client, StoryFailed, newest_mail, until

#: Simulated time begins here: a month of 31 days follows, then a short one.
BEGIN = "2026-01-15T09:00:00Z"
PASSWORD = "a long enough demo passphrase"  # noqa: S105


@dataclass
class Report:
    """Where the story is told; a test listens with a list, a person reads a terminal."""

    step: Callable[[str], None]
    fact: Callable[[str], None]
    event: Callable[[dict[str, Any]], None]


@dataclass
class Story:
    """Bills one new customer. Each run makes an account and plans of its own, so it repeats."""

    base_url: str
    mailbox: Path
    staff_email: str
    staff_password: str
    report: Report
    run: str = field(default_factory=lambda: uuid4().hex[:8])
    _told: set[str] = field(default_factory=set)

    @property
    def email(self) -> str:
        """Of the customer, who signs in with `PASSWORD`."""
        return f"ada-{self.run}@example.com"

    @property
    def external_id(self) -> str:
        """What the backend calls the account."""
        return f"crm-{self.run}"

    def tell(self) -> None:
        """All of it, in order. Raises `StoryFailed` at the first thing that is not as told."""
        self._make_a_key()
        self._make_an_account()
        with self._customer, self._staff, self._backend:
            self._publish()
            self._prepare_to_pay()
            self._subscribe()
            self._renew_three_times()
            self._upgrade_half_way()
            self._give_some_back()
            self._cancel_at_period_end()
            self._check_the_books()

    def _make_a_key(self) -> None:
        self.report.step("Staff make a secret key for the operator's backend, which does the rest")
        with Client(self.base_url) as anybody:
            self.staff_token = anybody.post(
                "/v1/auth/login", email=self.staff_email, password=self.staff_password
            )["access_token"]
        self._staff = Client(self.base_url, self.staff_token)
        made = self._staff.post(
            "/v1/ops/auth/keys",
            name=f"demo {self.run}",
            scopes=[
                *("accounts:read", "accounts:write", "catalog:write", "credit:write"),
                *("invoices:read", "ledger:read", "subscriptions:read", "test-clocks:write"),
            ],
        )
        self.key = made["key"]
        self._backend = Client(self.base_url, self.key)
        self.report.fact(f"{made['secrets'][0]['prefix']}…, for {', '.join(made['scopes'])}")

    def _make_an_account(self) -> None:
        self.report.step("The backend makes an account for a customer, who is invited and logs in")
        account = self._backend.post(
            "/v1/accounts",
            name=f"Analytical Engines {self.run}",
            external_id=self.external_id,
            email=self.email,
            country="DE",
            time_zone="Europe/Berlin",
            currency="EUR",
        )
        self.account_id = account["id"]
        self.report.fact(f"account {self.account_id}, {self.external_id} to the backend, in Berlin")
        self._staff.post(
            f"/v1/accounts/{self.account_id}/invitations", email=self.email, role="owner"
        )
        mail = newest_mail(self.mailbox, self.email)
        token = re.search(r"^Token: (\S+)$", mail, re.MULTILINE)
        if token is None:
            raise StoryFailed(f"no token in the mail to {self.email}")
        with Client(self.base_url) as anybody:
            anybody.post(
                "/v1/auth/invitations/accept",
                token=token[1],
                password=PASSWORD,
                full_name="Ada Byron",
            )
            self.customer_token = anybody.post(
                "/v1/auth/login", email=self.email, password=PASSWORD
            )["access_token"]
        self._customer = Client(self.base_url, self.customer_token)
        self.report.fact(f"{self.email} is its owner")

    def _publish(self) -> None:
        self.report.step("The backend publishes two plans, each monthly in euro and dollar")
        self.team = self._plan("team", "Team", {"EUR": 2900, "USD": 3200})
        self.business = self._plan("business", "Business", {"EUR": 5900, "USD": 6500})

    def _plan(self, code: str, name: str, amounts: dict[str, int]) -> dict[str, str]:
        plan = self._backend.post(
            "/v1/plans",
            code=f"{code}-{self.run}",
            name=name,
            description=f"The {name} plan of the demo.",
            dunning={"days": [1, 3, 5, 7], "then": "cancel"},
        )
        prices = {}
        for currency, amount in amounts.items():
            price = self._backend.post(
                "/v1/prices",
                plan_id=plan["id"],
                currency=currency,
                type="flat",
                interval="month",
                interval_count=1,
                unit_amount=amount,
            )
            prices[currency] = price["id"]
            amount_text = money({"amount": amount, "currency": currency})
            self.report.fact(f"{name}: {amount_text} a month")
        self._backend.post(f"/v1/plans/{plan['id']}/publish")
        return prices

    def _prepare_to_pay(self) -> None:
        self.report.step("The account's time is simulated from here on; a card is attached")
        self.clock_id = self._backend.post(
            "/v1/test-clocks", account_id=self.account_id, now=BEGIN
        )["id"]
        self._customer.put(
            "/v1/billing-details",
            name="Analytical Engines GmbH",
            address={
                "line1": "Unter den Linden 1",
                "postal_code": "10117",
                "city": "Berlin",
                "country": "DE",
            },
        )
        self._attach("tok_ok")

    def _attach(self, token: str) -> None:
        method = self._customer.post("/v1/payment-methods", provider="sandbox", token=token)
        self._customer.post(f"/v1/payment-methods/{method['id']}/default")
        self.report.fact(f"sandbox card {token}")

    def _subscribe(self) -> None:
        self.report.step("The customer subscribes to Team; the first invoice is paid at once")
        subscription = self._customer.post("/v1/subscriptions", price_id=self.team["EUR"])
        self.subscription_id = subscription["id"]
        self._await_status("active")
        self._await_invoices_paid(1)
        self._show_invoice(self._invoices()[0])
        self._show_events()

    def _renew_three_times(self) -> None:
        declined = "the card is declined, dunning asks again and recovers"
        for number, twist in ((1, None), (2, declined), (3, None)):
            self.report.step(f"Renewal {number}" + (f": {twist}" if twist else ""))
            if twist:
                self._attach("tok_fails_then_ok:1")
            subscription = self._customer.get(f"/v1/subscriptions/{self.subscription_id}")
            end = datetime.fromisoformat(subscription["current_period_end"])
            # Two days more than the period: the first dunning retry comes after one.
            self._advance(end + timedelta(days=2))
            self._await_invoices_paid(1 + number)
            self._await_status("active")
            self._show_invoice(self._invoices()[0])
            self._show_events()

    def _upgrade_half_way(self) -> None:
        self.report.step("Half-way through the period the customer moves up to Business")
        subscription = self._customer.get(f"/v1/subscriptions/{self.subscription_id}")
        start = datetime.fromisoformat(subscription["current_period_start"])
        end = datetime.fromisoformat(subscription["current_period_end"])
        self._advance(start + (end - start) / 2)
        preview = self._customer.post(
            f"/v1/subscriptions/{self.subscription_id}/preview", price_id=self.business["EUR"]
        )
        for line in preview["invoice"]["lines"]:
            self.report.fact(f"preview: {line['description']}: {money(line['net'])}")
        self._customer.post(
            f"/v1/subscriptions/{self.subscription_id}/change", price_id=self.business["EUR"]
        )
        self._await_invoices_paid(5)
        invoice = self._invoices()[0]
        for amount in ("net", "tax", "total", "amount_due"):
            previewed = preview["invoice"][amount]
            if invoice[amount] != previewed:
                raise StoryFailed(
                    f"{amount}: previewed {money(previewed)}, invoiced {money(invoice[amount])}"
                )
        self._show_invoice(invoice)
        self._show_events()

    def _give_some_back(self) -> None:
        self.report.step(
            "The backend gives 10.00 EUR of it back: a credit note, and money to the card"
        )
        note = self._backend.post(
            "/v1/credit-notes",
            invoice_id=self._invoices()[0]["id"],
            amount=1000,
            reason="A day without service",
        )
        path = f"/v1/credit-notes/{note['id']}"
        until(
            "the refund arrives",
            lambda: self._customer.get(path)["refund_status"] == "succeeded",
        )
        self.report.fact(f"credit note {note['number']}")
        self.report.fact(f"  net {money(note['net'])}, VAT {money(note['tax'])}")
        self.report.fact(f"  refunded {money(note['refund'])}")
        size = len(self._customer.download(f"{path}/pdf"))
        self.report.fact(f"  as a PDF of {size // 1024} kB with the e-invoice in it")
        self._show_events()

    def _cancel_at_period_end(self) -> None:
        self.report.step("The customer cancels at the period's end, and time moves past it")
        subscription = self._customer.post(f"/v1/subscriptions/{self.subscription_id}/cancel")
        end = datetime.fromisoformat(subscription["current_period_end"])
        self.report.fact(f"runs until {end:%d %B %Y}")
        self._advance(end + timedelta(days=1))
        self._await_status("canceled")
        self._show_events()

    def _check_the_books(self) -> None:
        self.report.step("The books: invoices, payments and ledger")
        invoices = [i for i in self._invoices() if i["status"] == "paid"]
        self.last_invoice_id: str = invoices[0]["id"]
        payments = self._customer.get("/v1/payments", limit=200)["data"]
        paid = sum(invoice["amount_paid"]["amount"] for invoice in invoices)
        taken = sum(p["amount"]["amount"] for p in payments if p["status"] == "succeeded")
        if paid != taken:
            raise StoryFailed(f"paid invoices say {paid}, payments say {taken}")
        in_all = money({"amount": paid, "currency": "EUR"})
        self.report.fact(f"{len(invoices)} paid invoices = payments = {in_all}")
        notes = self._customer.get("/v1/credit-notes", limit=200)["data"]
        noted = sum(note["refund"]["amount"] for note in notes)
        returned = sum(payment["refunded"]["amount"] for payment in payments)
        if noted != returned:
            raise StoryFailed(f"credit notes say {noted}, refunds say {returned}")
        in_all = money({"amount": noted, "currency": "EUR"})
        self.report.fact(f"{len(notes)} credit note = refunds = {in_all}")
        balances = self._backend.get("/v1/ledger/balances")["data"]
        sums: dict[str, int] = {}
        for row in balances:
            balance = row["balance"]
            sums[balance["currency"]] = sums.get(balance["currency"], 0) + balance["amount"]
        if any(sums.values()):
            raise StoryFailed(f"the ledger does not sum to zero: {sums}")
        self.report.fact("every ledger account together: 0")
        audit = self._backend.get("/v1/reconciliation")
        compared, found = audit["checked"].get("sandbox_charges", 0), len(audit["data"])
        self.report.fact(f"{compared} charges in the provider's own books, {found} differences")

    def _advance(self, to: datetime) -> None:
        clock = self._backend.post(f"/v1/test-clocks/{self.clock_id}/advance", to=to.isoformat())

        def reached() -> bool:
            nonlocal clock
            clock = self._backend.get(f"/v1/test-clocks/{self.clock_id}")
            return bool(clock["status"] == "ready")

        until(f"the clock reaches {to}", reached, within_seconds=60)
        self.report.fact(f"it is now {to:%d %B %Y %H:%M} UTC")

    def _await_status(self, status: str) -> None:
        until(
            f"subscription {self.subscription_id} becomes {status}",
            lambda: (
                self._customer.get(f"/v1/subscriptions/{self.subscription_id}")["status"] == status
            ),
        )

    def _invoices(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._customer.get("/v1/invoices", limit=200)["data"]
        return found

    def _await_invoices_paid(self, count: int) -> None:
        until(
            f"{count} paid invoices",
            lambda: sum(invoice["status"] == "paid" for invoice in self._invoices()) == count,
        )

    def _show_invoice(self, invoice: dict[str, Any]) -> None:
        self.report.fact(f"invoice {invoice['number']}, {invoice['status']}")
        for line in invoice["lines"]:
            self.report.fact(f"  {line['description']}: {money(line['amount'])}")
        for tax in invoice["taxes"]:
            self.report.fact(f"  VAT {tax['rate']} %: {money(tax['tax'])}")
        self.report.fact(f"  total {money(invoice['total'])}")

    def _show_events(self) -> None:
        path = f"/v1/subscriptions/{self.subscription_id}/timeline"
        for event in self._customer.get(path, limit=200)["data"]:
            if event["id"] not in self._told:
                self._told.add(event["id"])
                self.report.event(event)


def money(value: dict[str, Any]) -> str:
    """An amount as a person reads it; the demo's currencies have two digits."""
    return f"{Decimal(value['amount']).scaleb(-2):,.2f} {value['currency']}"
