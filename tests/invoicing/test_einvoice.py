"""E-invoices by EN 16931, in both syntaxes: valid by schema and by the norm's business rules."""

import importlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from services.invoicing.documents import einvoice, schematron
from services.invoicing.documents.paper import paper_of_credit_note, paper_of_invoice
from services.invoicing.documents.rendering import NotValid
from services.invoicing.domain.credit_note import Earlier, take_all, take_amount
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.tax import Buyer, Seller, TableTaxEngine, TaxDecision
from services.invoicing.domain.totals import Bundle, compute
from shared.events.subscriptions import Charge, Discount
from shared.ids import new_id
from shared.money import round_half_away
from tests.invoicing.factories import END, START, a_charge, a_discount
from tests.invoicing.test_credit_notes import take_back
from tests.tools import tool_environment

Paper = dict[str, Any]

SELLER = {
    "name": "Example GmbH",
    "country": "DE",
    "vat_id": "DE136695976",
    "tax_number": None,
    "address": {"line1": "Straße 1", "postal_code": "10115", "city": "Berlin", "country": "DE"},
    "email": None,
    "iban": "DE02120300000000202051",
    "bic": None,
    "branding": {},
}
RATES = {
    ("DE", "standard"): "19",
    ("DE", "reduced"): "7",
    ("AT", "standard"): "20",
    ("FR", "standard"): "20",
    ("FR", "reduced"): "5.5",
}
BUYERS = (
    Buyer(country="DE"),
    Buyer(country="FR"),
    Buyer(country="AT", vat_id="ATU13585627"),
    Buyer(country="US"),
    Buyer(country="DE", exemption_reason="An embassy"),
    Buyer(country="ES"),
)


def an_invoice(
    bundles: list[Bundle], buyer: Buyer = BUYERS[0], *, currency: str = "EUR"
) -> Invoice:
    def decide(category: str) -> TaxDecision:
        return TableTaxEngine().decide(
            seller=Seller(country="DE", vat_id="DE136695976"),
            buyer=buyer,
            category=category,
            rate_of=lambda country, name: (
                Decimal(RATES[country, name]) if (country, name) in RATES else None
            ),
        )

    invoice = Invoice(
        id=new_id(),
        account_id=new_id(),
        legal_entity_id=new_id(),
        subscription_id=None,
        billing_reason="manual",
        billing_key=None,
        currency=currency,
        created_at=START,
        supplied_at=START,
        seller=SELLER,
        bill_to={
            "account_id": str(new_id()),
            "name": "Łąkowa Sp. z o.o.",
            "address": {"country": buyer.country, "city": "Łódź"},
            "vat_id": buyer.vat_id,
            "language": "en",
            "purchase_order": "PO-1",
        },
    )
    invoice.fill(compute(bundles, currency=currency, decide=decide))
    return invoice


def issue(invoice: Invoice) -> Invoice:
    invoice.finalize(number="INV-1", at=START, due_at=END)
    if invoice.amount_remaining:
        invoice.receive(invoice.amount_remaining, at=START, payment_id=None)
    return invoice


def a_random_charge(rng: random.Random) -> Charge:
    quantity = rng.choice(["1", "3", "2.5"])
    unit = Decimal(rng.randint(-3_000, 60_000)) / rng.choice([1, 10])
    return a_charge(
        round_half_away(Decimal(quantity) * unit),
        quantity=quantity,
        unit_amount=str(unit),
        tax_behavior=rng.choice(["exclusive", "inclusive"]),
        tax_category=rng.choice(["standard", "reduced", "zero", "exempt"]),
    )


def a_random_discount(rng: random.Random) -> Discount:
    if rng.random() < 0.5:
        return a_discount(percent=str(rng.randint(1, 100)))
    return a_discount(amount=rng.randint(1, 20_000), currency="EUR")


def random_papers(count: int) -> Iterator[Paper]:
    """So many invoices, and credit notes of every third."""
    rng = random.Random(16931)  # noqa: S311
    for number in range(count):
        bundles = [
            Bundle(
                tuple(a_random_charge(rng) for _ in range(rng.randint(1, 5))),
                tuple(a_random_discount(rng) for _ in range(rng.randint(0, 2))),
            )
            for _ in range(rng.randint(1, 3))
        ]
        invoice = an_invoice(bundles, rng.choice(BUYERS))
        invoice.credit_applied = rng.choice([0, invoice.total // 3])
        invoice.collect_automatically = rng.random() < 0.5
        yield paper_of_invoice(issue(invoice))
        if number % 3 == 0 and invoice.amount_creditable:
            nothing = Earlier.of([])
            if rng.random() < 0.5:
                taken = take_all(invoice, nothing)
            else:
                taken = take_amount(invoice, nothing, rng.randint(1, invoice.amount_creditable))
            yield paper_of_credit_note(take_back(invoice, taken), invoice)


def a_paper(buyer: Buyer = BUYERS[0]) -> Paper:
    charges = (a_charge(1000), a_charge(-300, kind="proration_credit"))
    return paper_of_invoice(issue(an_invoice([Bundle(charges)], buyer)))


def a_credit_note(buyer: Buyer = BUYERS[0]) -> Paper:
    charges = (a_charge(1000), a_charge(300))
    invoice = issue(an_invoice([Bundle(charges)], buyer))
    return paper_of_credit_note(take_back(invoice, take_all(invoice, Earlier.of([]))), invoice)


def test_random_documents_are_valid_by_their_schemas() -> None:
    for paper in random_papers(15):
        assert einvoice.cii(paper)
        assert einvoice.ubl(paper)


def test_what_is_not_valid_does_not_leave_and_says_nothing_of_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paper = a_paper()
    paper["number"] = ""
    with pytest.raises(NotValid, match="BT-1"):
        einvoice.ubl(paper)

    made = einvoice._generated("generate_ubl_xml", a_paper())
    wrong = made.replace(b">2026-03-01<", b">Jane Doe<")
    monkeypatch.setattr(einvoice, "_generated", lambda *_: wrong)
    with pytest.raises(NotValid) as refused:
        einvoice.ubl(a_paper())
    assert "IssueDate" in str(refused.value)
    assert "Jane" not in str(refused.value)


# ---- schematron: an engine of 105 MB, which a deployment may have and these tests have apart


@pytest.fixture(scope="session")
def engine() -> ModuleType:
    [packages] = tool_environment("saxonche").glob("lib/python*/site-packages")
    sys.path.append(str(packages))
    try:
        importlib.import_module("saxonche")
    finally:
        sys.path.remove(str(packages))
    return sys.modules.pop("saxonche")


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch, engine: ModuleType) -> Iterator[None]:
    """The engine is installed, for as long as the test runs."""
    monkeypatch.setitem(sys.modules, "saxonche", engine)
    schematron.installed.cache_clear()
    assert schematron.installed()
    yield
    schematron.installed.cache_clear()


#: The first test may install the engine.
patient = pytest.mark.timeout(420)


@patient
@pytest.mark.usefixtures("rules")
def test_the_schematron_finds_nothing_in_random_documents() -> None:
    """As many as TEST_EINVOICES says: `.ci/run` has it look at 500."""
    for paper in random_papers(int(os.environ.get("TEST_EINVOICES", "40"))):
        assert einvoice.cii(paper)
        assert einvoice.ubl(paper)


@patient
@pytest.mark.usefixtures("rules")
def test_a_currency_that_the_norm_does_not_know_is_valid_by_schema_alone() -> None:
    paper = a_paper()
    paper["currency"] = "KWD"

    assert einvoice.cii(paper)
    assert einvoice.ubl(paper)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(terms: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        place: Any = terms
        for name in parents:
            place = place[int(name) if name.isdigit() else name]
        if value is None:
            del place[last]
        else:
            place[last] = value

    return change


SEEDED = [
    ("BR-CO-10", _set("BT-106", "7.01")),
    ("BR-CO-13", _set("BT-109", "7.01")),
    ("BR-CO-14", _set("BT-110", "1.34")),
    ("BR-CO-15", _set("BT-112", "8.34")),
    ("BR-CO-16", _set("BT-115", "8.34")),
    ("BR-CO-17", _set("BG-23/0/BT-117", "9.33")),
    ("BR-S-08", _set("BG-23/0/BT-116", "9.01")),
    ("BR-S-02", _set("BG-4/vat_identifier", None)),
    ("BR-27", _set("BG-25/1/BT-146", "-3.00")),
    ("BR-AE-10", _set("BG-23/0/BT-120", None)),
]


@patient
@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("made", [einvoice.cii, einvoice.ubl], ids=["cii", "ubl"])
@pytest.mark.parametrize("kind", ["invoice", "credit_note"])
@pytest.mark.parametrize(("rule", "change"), SEEDED, ids=[rule for rule, _ in SEEDED])
def test_a_seeded_error_is_found_and_the_document_does_not_leave(
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    change: Callable[[dict[str, Any]], None],
    kind: str,
    made: Callable[[Paper], bytes],
) -> None:
    buyer = BUYERS[2] if "AE" in rule else BUYERS[0]
    paper = a_paper(buyer) if kind == "invoice" else a_credit_note(buyer)
    terms = einvoice.terms(paper)
    change(terms)
    if rule == "BR-AE-10":
        del terms["BG-23"][0]["BT-121"]
    monkeypatch.setattr(einvoice, "terms", lambda _: terms)

    with pytest.raises(NotValid, match=f"{rule}(,|$)"):
        made(paper)
