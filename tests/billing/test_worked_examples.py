"""The examples of docs/billing.md, lived over HTTP: the page says what the system does.

Each test renders what was made as the page shows it and looks for it there, and in the end no
figure of its example may be left that was not found.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from shared.ids import new_id
from tests.billing.previewed import Json, Life
from tests.subscriptions.conftest import Client, Shop

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

Begin = Callable[..., Awaitable[Life]]

PAGE = Path(__file__).parents[2] / "docs" / "billing.md"
#: An amount or a price; dates and numbers of things have no decimals.
FIGURE = re.compile(r"-?\d+\.\d+")
TIMES = "\N{MULTIPLICATION SIGN}"


class Example:
    """One example of the page, and which of its figures were found to be so."""

    def __init__(self, number: int) -> None:
        text = PAGE.read_text().partition(f"### Example {number}:")[2]
        self.text = re.split(r"^##+ ", f"{text}\n", maxsplit=1, flags=re.MULTILINE)[0]
        self.found: set[str] = set()

    def says(self, *texts: str) -> None:
        """These stand there, wherever a line may end."""
        for text in texts:
            assert text in " ".join(self.text.split())
            self.found |= set(FIGURE.findall(text))

    def shows(self, rows: Iterable[str]) -> None:
        """A document stands there, row by row."""
        table = "\n".join(["| | EUR |", "|---|---:|", *rows, ""])
        assert f"\n\n{table}\n" in self.text
        self.found |= set(FIGURE.findall(table))

    def is_all_so(self) -> None:
        """The example has no figure that nobody found."""
        assert set(FIGURE.findall(self.text)) == self.found


def day(text: str) -> datetime:
    """Midnight of a summer's day in Berlin."""
    return datetime.fromisoformat(f"{text}T00:00:00+02:00")


async def living(begin: Begin, since: str) -> Life:
    """A German customer, whose first period begins with this day."""
    return await begin("DE", at=day(since) - timedelta(seconds=1))


async def only(life: Life, kind: str = "invoices") -> Json:
    """The one that was made since anybody looked."""
    (made,) = await life.made(kind)
    return made


# --- documents as the page shows them ------------------------------------------------------------


def amount(of: Json) -> str:
    return f"{Decimal(of['amount']) / 100:.2f}"


def row(words: str, of: Json, *, bold: bool = False, minus: bool = False) -> str:
    text = f"-{amount(of)}" if minus else amount(of)
    return f"| **{words}** | **{text}** |" if bold else f"| {words} | {text} |"


def taxes_of(document: Json) -> Iterator[str]:
    for tax in document["taxes"]:
        if tax["tax"]["amount"]:
            yield row(f"Tax, {tax['rate']} % of {amount(tax['taxable'])}", tax["tax"])


def invoice_rows(invoice: Json) -> Iterator[str]:
    for line in invoice["lines"]:
        yield row(line["description"], line["amount"])
        if line["discount"]["amount"]:
            yield row("Discount", line["discount"], minus=True)
    yield from taxes_of(invoice)
    yield row("Total", invoice["total"], bold=True)
    if invoice["credit_applied"]["amount"]:
        yield row("Paid with account credit", invoice["credit_applied"], minus=True)
        yield row("To pay", invoice["amount_due"], bold=True)


def note_rows(note: Json) -> Iterator[str]:
    for line in note["lines"]:
        yield row(line["description"], line["net"])
    yield from taxes_of(note)
    yield row("Total", note["total"], bold=True)
    outcomes = {
        "reduction": "of it not owed any more",
        "credit": "of it to the account's credit",
        "refund": "of it back by the way it was paid",
    }
    for field, words in outcomes.items():
        if note[field]["amount"]:
            yield row(words, note[field])


def terms(line: Json) -> Iterator[str]:
    """The terms of a sum, one a line."""
    for part in line["sub_lines"]:
        each, together = (Decimal(part[name]) / 100 for name in ("unit_amount", "amount"))
        yield f"{part['description']}: {part['quantity']} {TIMES} {each:.3f} = {together:.2f}"


# --- the examples --------------------------------------------------------------------------------


async def test_a_higher_price_in_the_middle_of_a_month(begin: Begin, shop: Shop) -> None:
    example = Example(1)
    life = await living(begin, "2026-04-01")
    dear = await shop.price(await shop.plan(name="Business"), unit_amount=3000)
    path = await life.subscribe(await shop.price(unit_amount=1000))
    first = await only(life)
    example.shows(invoice_rows(first))

    await life.advance(day("2026-04-11"))
    await life.customer.post(f"{path}/change", price_id=dear["id"])
    await life.settle()

    second = await only(life)
    example.shows(invoice_rows(second))
    _, taken = second["lines"]
    assert (taken["takes_back"], taken["why"]["taken_back"]["fraction"]) == (
        first["lines"][0]["id"],
        "2/3",
    )
    example.says(f"10.00 {TIMES} 2/3", f"30.00 {TIMES} 2/3")
    next_one = await life.customer.get(
        "/v1/invoices/upcoming", subscription_id=path.rpartition("/")[2]
    )
    example.says(f"{amount(next_one['net'])} + {amount(next_one['tax'])} of tax")
    example.is_all_so()
    says_why(taken, first)


def says_why(line: Json, of: Json) -> None:
    """The *why* that the page explains is that of the line of this example."""
    (shown,) = re.findall(r"^```json\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    why = json.loads(shown)
    taken_back = line["why"]["taken_back"]
    assert taken_back["invoice"] == of["number"]
    why["taken_back"] |= {name: taken_back[name] for name in ("charge_id", "invoice")}
    assert why == line["why"]


async def test_an_end_after_a_coupon_and_a_credit_note(
    begin: Begin, shop: Shop, staff: Client
) -> None:
    example = Example(2)
    life = await living(begin, "2026-04-01")
    code = f"C-{new_id()}"
    await staff.post("/v1/coupons", code=code, name="Half", percent="50")
    path = await life.subscribe(await shop.price(unit_amount=3000), coupon=code)
    invoice = await only(life)
    example.shows(invoice_rows(invoice))

    await life.invoicing.post(
        "/v1/credit-notes",
        invoice_id=invoice["id"],
        amount=200,
        settle="credit",
        reason="A day without service",
    )
    example.shows(note_rows(await only(life, "credit-notes")))
    await life.advance(day("2026-04-16"))
    await life.subscriptions.post(f"{path}/cancel", at_period_end=False, credit=True)
    await life.settle()

    note = await only(life, "credit-notes")
    example.shows(note_rows(note))
    assert note["lines"][0]["why"]["taken_back"]["whole"] == 1500
    example.says(f"15.00 {TIMES} 1/2 = 7.50", "7.50 - 1.68 = 5.82")
    (balance,) = (await life.invoicing.get("/v1/account-credit"))["balances"]
    example.says(f"{amount(balance)} of credit")
    example.is_all_so()


async def test_an_end_while_the_renewal_is_not_paid(begin: Begin, shop: Shop) -> None:
    example = Example(3)
    life = await living(begin, "2026-05-01")
    plan = await shop.plan(dunning={"days": [14], "then": "cancel"})
    path = await life.subscribe(await shop.price(plan, unit_amount=3000))
    await life.pay_with("tok_insufficient_funds")
    await life.look()
    await life.advance(day("2026-06-11"))
    assert (await life.subscriptions.get(path))["status"] == "past_due"
    invoice = await only(life)
    example.shows(invoice_rows(invoice))

    await life.subscriptions.post(f"{path}/cancel", at_period_end=False, credit=True)
    await life.settle()

    example.shows(note_rows(await only(life, "credit-notes")))
    invoice = await life.invoicing.get(f"/v1/invoices/{invoice['id']}")
    assert invoice["status"] == "open"
    example.says(f"**{amount(invoice['amount_remaining'])}** is left to pay")
    asked = (await life.payments.get("/v1/payments"))["data"][0]
    assert asked["amount"] == invoice["amount_remaining"]
    assert (await life.invoicing.get("/v1/account-credit"))["balances"] == []
    example.is_all_so()


async def test_a_base_fee_with_usage_some_of_it_late(
    begin: Begin, shop: Shop, staff: Client
) -> None:
    example = Example(4)
    life = await living(begin, "2026-04-01")
    await life.bill_to(address={"country": "DE"}, exemption_reason="Public benefit")
    meter = await staff.post(
        "/v1/meters", code=f"m-{new_id()}", name="Calls", unit="calls", grace_hours=72
    )
    plan = await shop.plan()
    base = await shop.price(plan, unit_amount=5000)
    await staff.post(
        "/v1/prices",
        plan_id=plan["id"],
        component=True,
        currency="EUR",
        interval="month",
        type="metered",
        meter_id=meter["id"],
        aggregation="sum",
        tier_mode="graduated",
        tiers=[
            {"up_to": 1000, "unit_amount_decimal": "2", "flat_amount": 0},
            {"up_to": None, "unit_amount_decimal": "1.5", "flat_amount": 0},
        ],
    )
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Setup")
    setup = await staff.post(
        "/v1/prices", addon_id=addon["id"], currency="EUR", type="one_off", unit_amount=10_000
    )
    path = await life.subscribe(base, addons=[{"price_id": setup["id"]}])
    example.shows(invoice_rows(await only(life)))

    async def use(calls: int, **more: str) -> None:
        await life.customer.post(
            "/v1/usage-events", id=str(new_id()), meter=meter["code"], value=calls, **more
        )

    await use(1500)
    await life.advance(day("2026-05-02"))

    invoice = await only(life)
    example.shows(invoice_rows(invoice))
    example.says(*terms(invoice["lines"][0]))
    await use(200, at=day("2026-04-30").isoformat())
    june = await life.customer.get("/v1/invoices/upcoming", subscription_id=path.rpartition("/")[2])
    example.shows(invoice_rows(june))
    *tiers, _, before = june["lines"][0]["why"]["steps"]
    owed = sum(Decimal(tier["amount"]) for tier in tiers) / 100
    billed = Decimal(before["billed"]) / 100
    example.says(
        *(f"{tier['units']} {TIMES} {Decimal(tier['unit_amount']) / 100:.3f}" for tier in tiers),
        f"{owed:.2f} less {billed:.2f} is {amount(june['lines'][0]['amount'])}",
    )
    example.is_all_so()


async def test_a_rate_of_tax_that_is_cut_within_a_period(begin: Begin, shop: Shop) -> None:
    example = Example(5)
    life = await living(begin, "2020-06-16")
    dear = await shop.price(await shop.plan(name="Business"), unit_amount=3000)
    path = await life.subscribe(await shop.price(unit_amount=1000))
    example.shows(invoice_rows(await only(life)))

    await life.advance(day("2020-07-06"))
    await life.customer.post(f"{path}/change", price_id=dear["id"])
    await life.settle()

    invoice, note = await only(life), await only(life, "credit-notes")
    example.shows(invoice_rows(invoice))
    example.shows(note_rows(note))
    assert note["lines"][0]["why"]["taken_back"]["fraction"] == "1/3"
    example.says(f"30.00 {TIMES} 1/3", f"10.00 {TIMES} 1/3")
    assert (await life.payments.get("/v1/payments"))["data"][0]["amount"] == invoice["amount_due"]
    example.is_all_so()
