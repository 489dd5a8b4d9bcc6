"""What is taken back, tiers and units, as they stand on a page and in an e-invoice."""
# ruff: noqa: RUF001  (the page has signs that look like letters)

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.invoicing.documents import einvoice
from services.invoicing.documents.paper import paper_of_credit_note, paper_of_invoice
from services.invoicing.documents.pdf import pdf
from services.invoicing.documents.view import Writer
from services.invoicing.documents.why import formulas, terms
from services.invoicing.domain.credit_note import Earlier, Settle, Split, credit
from services.invoicing.domain.invoice import Invoice
from services.invoicing.domain.take_back import Return, on_invoice, take_shares
from services.invoicing.domain.totals import Bundle, compute
from shared.events.subscriptions import Charge, ChargePart
from tests.invoicing.factories import END, START, a_charge, taxed_at
from tests.invoicing.test_credit_notes import NOW
from tests.invoicing.test_einvoice import an_invoice, issue
from tests.invoicing.test_pdf import amounts_in, text_of
from tests.invoicing.test_take_backs import LAST_THIRD, a_take_back

ENGLISH = Writer("en", "EUR")


def returned(invoice: Invoice, charges: list[Charge], since: datetime) -> Return:
    """These charges of a paid invoice, taken back from then on."""
    lines = {line.charge_id: line.id for line in invoice.lines}
    take_backs = {lines[charge.id]: a_take_back(charge, since) for charge in charges}
    taken = take_shares(invoice, Earlier.of([]), {line: [one] for line, one in take_backs.items()})
    return Return(
        invoice=invoice,
        taken=taken,
        split=Split.of(invoice, taken.total),
        take_backs=take_backs,
        settle=Settle.CREDIT,
    )


def paid(*charges: Charge) -> Invoice:
    return issue(an_invoice([Bundle(charges)]))


def with_negative_lines(
    charges: list[Charge], old: list[Charge], *, since: datetime = LAST_THIRD
) -> Invoice | None:
    """An invoice over charges on which older ones are taken back, where they fit."""
    before = paid(*old)
    totals = compute([Bundle(tuple(charges))], currency="EUR", decide=lambda _: taxed_at("19"))
    group = before.taxes[0]
    group["country"] = totals.groups[0].country
    one = returned(before, old, since)
    fitting = on_invoice(totals, [one], legal_entity_id=before.legal_entity_id)
    if fitting is None:
        return None
    invoice = an_invoice([Bundle(tuple(charges))])
    invoice.fill(fitting)
    return issue(invoice)


def test_a_negative_line_says_of_what_it_is_the_share() -> None:
    invoice = with_negative_lines([a_charge(5000)], [a_charge(1000)])
    assert invoice is not None
    paper = paper_of_invoice(invoice)

    text = text_of(pdf(paper, einvoice.cii(paper)))

    assert "-€10.00 × 1/3 = -€3.33" in text
    assert amounts_in(text)[-333] >= 1
    assert einvoice.ubl(paper)


def test_a_credit_note_says_it_as_well_and_from_when() -> None:
    charge = a_charge(1000)
    invoice = paid(charge)
    one = returned(invoice, [charge], LAST_THIRD)
    note = credit(
        invoice,
        one.taken,
        number="CN-1",
        reason=one.reason,
        settle=Settle.CREDIT,
        by_provider=0,
        at=NOW,
    )
    [line] = invoice.lines
    note.lines[0].describe(one.take_backs[line.id], line, invoice=invoice.number or "")

    paper = paper_of_credit_note(note, invoice)
    text = text_of(pdf(paper, einvoice.cii(paper)))

    assert "€10.00 × 1/3 = €3.33" in text
    assert "Mar 21, 2026" in text
    assert "Mar 1, 2026" not in text.replace(ENGLISH.day(NOW.isoformat()), "", 1)


charges = st.lists(
    st.builds(
        lambda amount, behavior: a_charge(amount, tax_behavior=behavior),
        st.integers(1, 100_000),
        st.sampled_from(["exclusive", "inclusive"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25, deadline=None)
@given(charges, charges, st.integers(0, 100))
def test_an_invoice_with_what_it_takes_back_is_less_by_what_a_note_would_give(
    new: list[Charge], old: list[Charge], percent: int
) -> None:
    since = START + (END - START) * percent / 100
    before = paid(*old)
    worth = returned(before, old, since).taken.total

    invoice = with_negative_lines(new, old, since=since)

    alone = compute([Bundle(tuple(new))], currency="EUR", decide=lambda _: taxed_at("19"))
    if invoice is None:
        assert worth > min(alone.total, 0)
        return
    assert invoice.total == alone.total - worth
    assert invoice.amount_brought == worth
    paper = paper_of_invoice(invoice)
    # Valid by the schemas and by the rules of EN 16931, or this raises.
    assert einvoice.cii(paper)
    assert einvoice.ubl(paper)


TIERED = (
    ChargePart(description="1-5", quantity="5", unit_amount="700", amount="3500"),
    ChargePart(
        description="6+", quantity="2", unit_amount="650.5", flat_amount="100", amount="1401"
    ),
)


def test_the_terms_of_a_sum_stand_below_the_line_once() -> None:
    why = {"steps": [{"rule": "graduated", "tier": "1-5", "units": "5", "unit_amount": "700"}]}
    charge = a_charge(4901, parts=TIERED, why=why)
    paper = paper_of_invoice(issue(an_invoice([Bundle((charge,))])))

    text = text_of(pdf(paper, einvoice.cii(paper)))

    assert "[1–5] 5 × €7.00 = €35.00" in text
    assert "[6+] 2 × €6.505 + €1.00 = €14.01" in text
    assert text.count("€7.00") == 1


def test_the_unit_stands_with_its_quantity() -> None:
    charge = a_charge(200, quantity="100", unit_amount="2", unit="GB-hours")
    paper = paper_of_invoice(issue(an_invoice([Bundle((charge,))])))

    text = text_of(pdf(paper, einvoice.cii(paper)))

    assert "GB-hours" in text
    assert "€0.02" in text
    assert b"<ram:BilledQuantity" in einvoice.cii(paper)


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ({"whole": 1000, "fraction": "1", "amount": -1000}, []),
        ({"whole": 1000, "fraction": "1/3", "amount": -333}, ["-€10.00 × 1/3 = -€3.33"]),
        (
            {"whole": 1000, "fraction": "1/2", "amount": -300},
            ["-(€10.00 × 1/2 - €2.00) = -€3.00"],
        ),
        ({"whole": 1000, "fraction": "1", "amount": 600}, ["€10.00 - €4.00 = €6.00"]),
        ({"whole": 1000, "fraction": "1/3", "amount": 334}, ["€10.00 × 1/3 = €3.34"]),
    ],
)
def test_what_went_back_before_is_taken_off(taken: dict[str, Any], said: list[str]) -> None:
    share = {"rule": "remaining seconds / seconds of the period", "sense": "take_back"}

    assert formulas({"steps": [share], "taken_back": taken}, ENGLISH) == said
    assert terms([], ENGLISH) == []
