"""Pages: what they say, in whose language, drawn with what."""
# ruff: noqa: RUF001  (letters of other scripts are what this is about)

import copy
import io
import re
import subprocess
from collections import Counter
from typing import Any

import pikepdf
import pytest

from services.invoicing.documents import einvoice
from services.invoicing.documents.labels import LANGUAGES, words
from services.invoicing.documents.paper import paper_of_credit_note, paper_of_invoice
from services.invoicing.documents.pdf import FONTS, pdf
from services.invoicing.domain.credit_note import Earlier, take_amount
from services.invoicing.domain.totals import Bundle
from shared.events.subscriptions import Charge
from tests.invoicing.factories import a_charge, a_discount
from tests.invoicing.test_credit_notes import take_back
from tests.invoicing.test_einvoice import Paper, an_invoice, issue
from tests.tools import program

#: By which text is turned around; no part of what it says.
MARKS = dict.fromkeys([0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
#: The thousands of an amount may stand apart.
DIGITS = r"(?:\d{1,3}(?: \d{3})+(?:,\d+)?|\d[\d.,]*)"
MINUS = "[-\u2212]"


def a_paper(*charges: Charge, language: str = "en", **bill_to: Any) -> Paper:
    some = charges or (a_charge(123_456), a_charge(-23_456, kind="proration_credit"))
    off = a_discount(amount=5_000, currency="EUR")
    invoice = an_invoice([Bundle(some, (off,))])
    invoice.credit_applied = 1_000
    paper = paper_of_invoice(issue(invoice))
    paper["bill_to"].update(language=language, **bill_to)
    return paper


def drawn(paper: Paper, **more: Any) -> bytes:
    return pdf(paper, einvoice.cii(paper), **more)


def text_of(made: bytes) -> str:
    """What pdftotext reads in it."""
    tool = program("pdftotext")
    read = subprocess.run([tool, "-layout", "-", "-"], input=made, capture_output=True, check=True)
    return read.stdout.decode().translate(MARKS)


def amounts_in(text: str) -> Counter[int]:
    """All amounts in euro, in cents; a sign may stand on either side."""
    found = re.findall(rf"{MINUS}? ?€ ?{MINUS}?{DIGITS}|{MINUS}?{DIGITS} ?€{MINUS}?", text)
    return Counter(
        int(re.sub(r"\D", "", one)) * (-1 if re.search(MINUS, one) else 1) for one in found
    )


def amounts_of(paper: Paper) -> Counter[int]:
    """Every amount that the document is about, as often as it has to be shown."""
    shown = Counter[int]()
    for line in paper["lines"]:
        shown.update([int(line["unit_amount"]), line["amount"]])
        shown.update(-off["share"] for off in line["why"].get("discounts", []))
    for group in paper["taxes"]:
        shown.update([group["taxable"], group["tax"]])
    shown.update([paper["net"], paper["total"]])
    if paper["discount"]:
        shown.update([paper["subtotal"], -paper["discount"]])
    if paper["credit_applied"]:
        shown.update([-paper["credit_applied"]])
    if paper["kind"] == "invoice":
        shown.update([paper["amount_due"]])
    return shown


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_text_of_the_page_has_exactly_the_amounts_of_the_invoice(language: str) -> None:
    paper = a_paper(language=language)

    text = text_of(drawn(paper))

    if language == "ar":
        # Read from right to left, where the sign's place on the page is not in the text.
        assert Counter(map(abs, amounts_in(text).elements())) == Counter(
            map(abs, amounts_of(paper).elements())
        )
    else:
        assert amounts_in(text) == amounts_of(paper)
        assert words(language)["amount_due"] in text


def test_a_credit_note_shows_its_own_amounts_and_the_number_of_the_invoice() -> None:
    invoice = issue(an_invoice([Bundle((a_charge(10_000), a_charge(5_000)))]))
    taken = take_amount(invoice, Earlier.of([]), 4_000)
    paper = paper_of_credit_note(take_back(invoice, taken), invoice)

    text = text_of(drawn(paper))

    assert amounts_in(text) == amounts_of(paper)
    assert "Credit note" in text
    assert str(invoice.number) in text


def test_the_same_input_gives_the_same_bytes_in_every_language() -> None:
    for language in LANGUAGES:
        paper = a_paper(language=language)
        xml = einvoice.cii(paper)

        assert pdf(paper, xml) == pdf(copy.deepcopy(paper), xml)


@pytest.mark.parametrize(
    "name",
    [
        "Łąkowa Sp. z o.o.",
        "Ολυμπία Α.Ε.",
        "ООО «Ромашка»",
        "株式会社さくら技研",
        "云服务有限公司",
        "한국 클라우드 주식회사",
        "บริษัท ตัวอย่าง จำกัด",
        "შპს მაგალითი",
        "Օրինակ ՍՊԸ",
    ],
)
def test_a_name_is_drawn_in_its_own_script(name: str) -> None:
    assert name in text_of(drawn(a_paper(name=name)))


@pytest.mark.parametrize("name", ["شركة النخيل للتقنية", "חברה לדוגמה", "उदाहरण प्राइवेट लिमिटेड"])
def test_a_name_whose_letters_are_joined_or_turned_is_drawn_whole(name: str) -> None:
    """What pdftotext makes of it depends on the order of glyphs; nothing was replaced."""
    assert "?" not in text_of(drawn(a_paper(name=name)))


def test_it_is_drawn_with_the_fonts_that_come_with_it() -> None:
    ours = {path.stem for path in FONTS.glob("*.[ot]tf")}
    paper = a_paper(name="شركة 株式会社 한국")

    with pikepdf.open(io.BytesIO(drawn(paper))) as document:
        fonts = {
            str(font.BaseFont).partition("+")[2].removesuffix("-Identity-H")
            for page in document.pages
            for font in page.Resources.Font.values()
        }

    known = {"DroidSansFallback", "NotoSansCJKkr-Regular"}
    assert known < fonts
    assert fonts - known <= ours


def test_what_no_font_can_draw_is_replaced_and_nothing_else() -> None:
    text = text_of(drawn(a_paper(name="Rocket 🚀 \U00012000 株式会社 👩‍💻 Łódź")))

    assert re.search(r"Rocket +\? +株式会社 +Łódź", text)


def test_control_characters_reach_neither_page_nor_xml() -> None:
    charge = a_charge(100, description="Seat\x01s\n\u202eoverridden")
    paper = paper_of_invoice(issue(an_invoice([Bundle((charge,))])))

    assert "Seats overridden" in text_of(drawn(paper))
    assert b"Seats overridden" in einvoice.ubl(paper)


def test_many_lines_take_several_pages_and_each_says_which() -> None:
    charges = [a_charge(100 + n, description=f"Line {n}") for n in range(120)]
    paper = paper_of_invoice(issue(an_invoice([Bundle(tuple(charges))])))

    pages = text_of(drawn(paper)).split("\f")[:-1]

    assert len(pages) >= 3
    for number, page in enumerate(pages, start=1):
        assert f"Page {number} of {len(pages)}" in page
    for page in pages[1:-1]:
        assert "Invoice INV-1" in page
        assert "Unit price" in page
    assert amounts_in("".join(pages)) == amounts_of(paper)


def test_a_logo_is_drawn_and_what_is_no_picture_is_left_out() -> None:
    logo = (
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="3"><path d="M0 0h9v3z"/></svg>'
    )
    paper = a_paper()
    bare = drawn(paper)

    assert drawn(paper, logo=logo) != bare
    assert drawn(paper, logo=b"no picture at all") == bare


def test_the_page_is_the_one_that_the_seller_has_paper_for() -> None:
    american = a_paper()
    american["seller"] = {**american["seller"], "country": "US"}

    sizes = []
    for paper in (a_paper(), american):
        with pikepdf.open(io.BytesIO(drawn(paper))) as document:
            sizes.append([round(float(side)) for side in document.pages[0].MediaBox][2:])

    assert sizes == [[595, 842], [612, 792]]


TIERS = {
    "steps": [
        {
            "rule": "graduated",
            "tier": "1-5",
            "units": "5",
            "unit_amount": "700",
            "flat_amount": "0",
            "amount": "3500",
        },
        {
            "rule": "graduated",
            "tier": "6+",
            "units": "2",
            "unit_amount": "650.5",
            "flat_amount": "100",
            "amount": "1401",
        },
        {"rule": "rounding", "mode": "half_away", "exact": "4901", "rounded": 4901},
    ]
}
PART = {
    "steps": [
        {"rule": "flat", "amount": "2000"},
        {
            "rule": "remaining seconds / seconds of the period",
            "remaining_seconds": 1_209_600,
            "period_seconds": 2_678_400,
            "fraction": "14/31",
        },
        {"rule": "rounding", "mode": "half_away", "exact": "-28000/31", "rounded": -903},
    ]
}
PACKAGES = {
    "steps": [
        {"rule": "free units", "units": "1000"},
        {
            "rule": "a started package counts",
            "units": "250",
            "package_size": 100,
            "packages": 3,
            "unit_amount": "500",
        },
        {"rule": "rounding", "mode": "half_away", "exact": "1500", "rounded": 1500},
        {"rule": "less what was billed before", "billed": 500},
    ]
}


@pytest.mark.parametrize(
    ("amount", "why", "said"),
    [
        (4901, TIERS, "[1–5] 5 × €7.00 + [6+] 2 × €6.505 + €1.00 = €49.01"),
        (-903, PART, "-€20.00 × 14/31 = -€9.03"),
        (1000, PACKAGES, "1,000 × €0.00 + 3 × €5.00 (250 / 100) = €15.00 - €5.00"),
        (1000, {"rule": "an agreement of old"}, "an agreement of old"),
    ],
)
def test_a_line_says_why(amount: int, why: dict[str, Any], said: str) -> None:
    charges = (a_charge(amount, why=why), a_charge(5_000))

    assert said in text_of(drawn(a_paper(*charges)))


def test_what_quantity_times_price_says_is_not_said_again() -> None:
    whole = {"steps": [{"rule": "per unit", "units": "3", "unit_amount": "700"}]}
    charge = a_charge(2_100, quantity="3", unit_amount="700", why=whole)
    paper = paper_of_invoice(issue(an_invoice([Bundle((charge,))])))

    assert "×" not in text_of(drawn(paper))
