"""What somebody, and staff for it, do with invoices and money."""

import time
from dataclasses import dataclass
from typing import Any

from tests.chaos.person import Person

#: So long it is looked for what became of a refund by hand, in half seconds.
LOOKS = 60
AT_HOME: dict[str, Any] = {"address": {"country": "DE"}}
#: A business of another country of the EU pays no tax here.
ABROAD: dict[str, Any] = {"address": {"country": "FR"}, "vat_id": "FR40303265045"}


@dataclass(kw_only=True)
class Payer(Person):
    """Somebody who is billed."""

    #: Whether what it is given back goes by credit note, or by hand.
    credits: bool = False
    consolidated: bool = False

    # ---- giving back ------------------------------------------------------------------------

    def give_back(self) -> None:
        """By hand for some customers, by credit note for others: both of one payment race."""
        if self.credits:
            self._credit()
        else:
            self._refund()

    def _credit(self) -> None:
        """Staff take back a part of an invoice, or all: what was paid, or is not paid yet."""
        one = self._an_invoice("paid", "paid", "open")
        if one is not None:
            self._take_back(one, in_part=self.rng.random() < 0.7)

    def _take_back(self, invoice: Any, *, in_part: bool) -> None:
        body = {"invoice_id": invoice["id"], "reason": "chaos"}
        body["settle"] = self.rng.choice(["refund", "credit"])
        if in_part:
            body["amount"] = self.rng.randint(1, invoice["total"]["amount"])
        self.ask_for("credit", "/v1/credit-notes", body, by=self.desk)

    def ask_for_less(self) -> None:
        """Staff take back a part of what is not paid."""
        one = self._an_invoice("open")
        if one is not None:
            self._take_back(one, in_part=True)

    def give_back_of(self, subscription: str) -> None:
        """A part of what was paid for one subscription."""
        path = f"/v1/invoices?limit=20&status=paid&subscription_id={subscription}"
        found = self.client.must("look at invoices", "GET", path)["data"]
        worth = [one for one in found if one["total"]["amount"] > 0]
        if not worth:
            return
        # What has several lines has more that can go wrong.
        one = max(worth, key=lambda invoice: len(invoice["lines"]))
        if self.credits:
            self._take_back(one, in_part=True)
        else:
            self._refund_one_of([one["id"]])

    def _refund(self) -> None:
        """Staff send a part of a payment back."""
        self._refund_one_of(None)

    def _refund_one_of(self, invoices: list[str] | None) -> None:
        found = self.client.must("look at payments", "GET", "/v1/payments?limit=200")["data"]
        paid = [
            one
            for one in found
            if one["status"] == "succeeded" and (invoices is None or one["invoice_id"] in invoices)
        ]
        if not paid:
            return
        one = self.rng.choice(paid)
        most = one["amount"]["amount"]
        part = {"amount": self.rng.randint(1, most), "currency": one["amount"]["currency"]}
        body = self.rng.choice([{}, {"amount": part}])
        path = f"/v1/payments/{one['id']}/refunds"
        if self.ask_for("refund", path, body, by=self.desk) is not None:
            self._wait_until_it_is_known(one["invoice_id"])

    def _wait_until_it_is_known(self, invoice: str) -> None:
        """Whoever gives money back by hand and then takes back what it paid for looks first.

        Until invoicing has heard of the one, it gives for the other too, and a person is told.
        """
        before = None
        for _ in range(LOOKS):
            found = self.client.must("look at an invoice", "GET", f"/v1/invoices/{invoice}")
            payments = self.client.must("look at payments", "GET", "/v1/payments?limit=200")["data"]
            mine = [one for one in payments if one["invoice_id"] == invoice]
            refunded = sum(one["refunded"]["amount"] for one in mine)
            if refunded and found["amount_returned"]["amount"] >= refunded == before:
                return
            before = refunded
            time.sleep(0.5)

    # ---- invoices ---------------------------------------------------------------------------

    def void_and_make_again(self) -> None:
        """Staff take an open invoice back, and mostly make it again."""
        one = self._an_invoice("open")
        if one is None:
            return
        voided = self.ask_for("void", f"/v1/invoices/{one['id']}/void", by=self.desk)
        if voided is None or self.rng.random() < 0.3:
            return
        made = self.ask_for("make again", f"/v1/invoices/{one['id']}/reissue", {}, by=self.desk)
        if made is not None:
            self.ask_for("finalize", f"/v1/invoices/{made['id']}/finalize", {}, by=self.desk)

    def pay_late(self) -> None:
        """With a card that works, what is open; now and then by a bank transfer."""
        one = self._an_invoice("open", "uncollectible")
        if one is None:
            return
        if self.rng.random() < 0.3:
            body = {"reference": "a bank transfer"}
            path = f"/v1/invoices/{one['id']}/mark-paid"
            self.ask_for("pay by transfer", path, body, by=self.desk)
            return
        card = {"provider": "sandbox", "token": "tok_ok"}
        made = self.client.must("attach a card", "POST", "/v1/payment-methods", card)
        path = f"/v1/payment-methods/{made['id']}/default"
        self.ask_for("use a card", path, {})
        status, told = self.client.ask("pay", "POST", f"/v1/invoices/{one['id']}/pay", {})
        # Nothing may be left to be collected of it.
        if status >= 300 and status not in {404, 409, 422}:
            self.history.surprise(f"{self.client.name}: pay: {status} {told}")

    def _an_invoice(self, *statuses: str) -> Any:
        status = self.rng.choice(statuses)
        path = f"/v1/invoices?limit=20&status={status}"
        found = self.client.must("look at invoices", "GET", path)["data"]
        worth = [one for one in found if one["total"]["amount"] > 0]
        return self.rng.choice(worth) if worth else None

    # ---- whom to bill -----------------------------------------------------------------------

    def move_abroad_or_home(self) -> None:
        """A VAT number comes or goes, and the tax with it."""
        where = self.rng.choice([ABROAD, AT_HOME])
        self.say_whom_to_bill("say whom to bill", where)

    def share_invoices(self) -> None:
        """What renews on one day is billed together."""
        self.consolidated = True
        self.say_whom_to_bill("share invoices", AT_HOME)

    def say_whom_to_bill(self, what: str, where: dict[str, Any]) -> None:
        body = {"name": "Chaos Ltd", **where, "consolidated_billing": self.consolidated}
        self.desk.must(what, "PUT", "/v1/billing-details", body)

    # ---- tokens -----------------------------------------------------------------------------

    def tokens(self) -> None:
        self.client.make(
            "buy tokens", "/v1/token-balance/purchase", {"bundle_id": self.catalog.bundle}
        )
        body = {"amount": self.rng.choice([10, 100, 990]), "reason": "chaos"}
        self.ask_for("spend tokens", "/v1/token-balance/debit", body)
