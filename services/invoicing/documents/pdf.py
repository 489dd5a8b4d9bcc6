"""PDF/A-3 with the e-invoice embedded (Factur-X); the same input gives the same bytes."""

import io
import os
import warnings
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson
import pikepdf
import typst
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal

from services.invoicing.documents.einvoice import buyer_name
from services.invoicing.documents.labels import LANGUAGES, words
from shared.money import exponent

TEMPLATE = Path(__file__).with_name("document.typ")
STANDARD: Literal["a-3b"] = "a-3b"
ACCENT = "#1f4e79"
#: What a PDF must not contain and no font draws.
CONTROLS = dict.fromkeys([*range(0x20), 0x7F])

#: Where the letters end that typst's own fonts are sure to have, and what else they have.
LATIN = 0x250
PUNCTUATION = "\u20ac\u2013\u2014\u201c\u201d\u201e\u2019\u2026"
EN_DASH = "\u2013"

#: https://fnfe-mpe.org/factur-x/: the four properties and their PDF/A extension schema.
FACTUR_X = b"""<rdf:Description rdf:about="" \
xmlns:fx="urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#">\
<fx:DocumentType>INVOICE</fx:DocumentType><fx:DocumentFileName>factur-x.xml</fx:DocumentFileName>\
<fx:Version>1.0</fx:Version><fx:ConformanceLevel>EN 16931</fx:ConformanceLevel></rdf:Description>\
<rdf:Description rdf:about="" xmlns:pdfaExtension="http://www.aiim.org/pdfa/ns/extension/" \
xmlns:pdfaSchema="http://www.aiim.org/pdfa/ns/schema#" \
xmlns:pdfaProperty="http://www.aiim.org/pdfa/ns/property#"><pdfaExtension:schemas><rdf:Bag>\
<rdf:li rdf:parseType="Resource"><pdfaSchema:schema>Factur-X PDFA Extension Schema\
</pdfaSchema:schema><pdfaSchema:namespaceURI>\
urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#</pdfaSchema:namespaceURI>\
<pdfaSchema:prefix>fx</pdfaSchema:prefix><pdfaSchema:property><rdf:Seq>%b</rdf:Seq>\
</pdfaSchema:property></rdf:li></rdf:Bag></pdfaExtension:schemas></rdf:Description></rdf:RDF>"""
PROPERTY = b"""<rdf:li rdf:parseType="Resource"><pdfaProperty:name>%b</pdfaProperty:name>\
<pdfaProperty:valueType>Text</pdfaProperty:valueType><pdfaProperty:category>external\
</pdfaProperty:category><pdfaProperty:description>%b</pdfaProperty:description></rdf:li>"""
PROPERTIES = (
    (b"DocumentFileName", b"name of the embedded XML invoice file"),
    (b"DocumentType", b"INVOICE"),
    (b"Version", b"version of the Factur-X XML schema"),
    (b"ConformanceLevel", b"conformance level of the embedded Factur-X data"),
)


def pdf(paper: dict[str, Any], xml: bytes, *, logo: bytes | None = None) -> bytes:
    """The document with `xml` in it.

    A character that no font has is an error in PDF/A; then the characters that nobody can draw
    are replaced, so that there always is a document.
    """
    view = _view(paper, logo)
    issued = datetime.fromisoformat(paper["issued_at"])
    try:
        made = _compile(view, xml, issued)
    except typst.TypstError as error:
        if "could not be displayed" not in str(error) and "not supported" not in str(error):
            raise
        made = _compile(_drawable(view), xml, issued)
    return _as_factur_x(made)


@cache
def _fonts() -> typst.Fonts:
    """The system's fonts and those that typst has; read once."""
    more = os.environ.get("PERENNIAL_FONT_PATH")
    return typst.Fonts(font_paths=[more] if more else [])


@cache
def _compiler() -> typst.Compiler:
    return typst.Compiler(input=str(TEMPLATE), root=str(TEMPLATE.parent), font_paths=_fonts())


def _compile(view: dict[str, Any], xml: bytes, issued: datetime) -> bytes:
    with warnings.catch_warnings():
        # Families that are not installed: the next in the list draws.
        warnings.simplefilter("ignore")
        made = _compiler().compile(
            format="pdf",
            sys_inputs={"paper": orjson.dumps(view).decode(), "xml": xml.decode()},
            pdf_standards=[STANDARD],
            timestamp=int(issued.timestamp()),
        )
    if not isinstance(made, bytes):
        raise TypeError("typst gave no document")
    return made


def _as_factur_x(made: bytes) -> bytes:
    """Say in the metadata that the attachment is the invoice."""
    with pikepdf.open(io.BytesIO(made)) as document:
        metadata = document.Root.Metadata
        properties = b"".join(PROPERTY % pair for pair in PROPERTIES)
        packet = metadata.read_bytes().replace(b"</rdf:RDF>", FACTUR_X % properties)
        metadata.write(packet)
        out = io.BytesIO()
        document.save(out, deterministic_id=True)
    return out.getvalue()


def _drawable(value: Any) -> Any:
    """The same with every character replaced that none of the fonts is likely to have."""
    if isinstance(value, str):
        return "".join(c if ord(c) < LATIN or c in PUNCTUATION else "?" for c in value)
    if isinstance(value, list):
        return [_drawable(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _drawable(inner) for name, inner in value.items()}
    return value


class _Writer:
    """Numbers and dates as the reader's language writes them."""

    def __init__(self, language: str, currency: str) -> None:
        self.language = language if language in LANGUAGES else "en"
        self.locale = Locale.parse(self.language)
        self.currency = currency

    def money(self, minor: int, currency: str | None = None) -> str:
        """Digits by ISO 4217 and not by custom: a document is a ledger's."""
        code = currency or self.currency
        return self._written(Decimal(minor).scaleb(-exponent(code)), code, exponent(code))

    def number(self, value: str) -> str:
        return str(format_decimal(Decimal(value), locale=self.locale, decimal_quantization=False))

    def price(self, minor: str) -> str:
        """A unit price with all the decimals that it has."""
        digits = exponent(self.currency)
        amount = Decimal(minor).scaleb(-digits).normalize()
        return self._written(amount, self.currency, max(digits, -int(amount.as_tuple().exponent)))

    def _written(self, amount: Decimal, currency: str, digits: int) -> str:
        pattern = _pattern(self.locale, digits)
        return str(format_currency(amount, currency, pattern, self.locale, currency_digits=False))

    def country(self, code: str | None) -> str | None:
        return str(self.locale.territories.get(code, code)) if code else None

    def day(self, moment: str) -> str:
        return str(format_date(datetime.fromisoformat(moment).date(), "medium", locale=self.locale))


@cache
def _pattern(locale: Locale, digits: int) -> str:
    """The locale's way to write money, with exactly so many decimals."""
    standard = str(locale.currency_formats["standard"].pattern)
    return standard.replace("0.00", "0." + "0" * digits if digits else "0")


def _view(paper: dict[str, Any], logo: bytes | None) -> dict[str, Any]:
    bill_to, seller = paper["bill_to"], paper["seller"]
    write = _Writer(bill_to.get("language") or "en", paper["currency"])
    said = words(write.language)
    branding = seller.get("branding") or {}
    view = {
        "words": said,
        "language": write.language,
        "rtl": write.locale.text_direction == "rtl",
        "color": branding.get("color") or ACCENT,
        "logo": list(logo) if logo else None,
        "title": said[paper["kind"]],
        "number": paper["number"],
        "seller": {
            "name": seller["name"],
            "lines": [*_address(seller["address"], seller, write), *_ids(seller)],
        },
        "buyer": {
            "name": buyer_name(bill_to),
            "lines": _address(bill_to["address"], bill_to, write),
        },
        "facts": _facts(paper, said, write),
        "lines": [_row(line, write) for line in paper["lines"]],
        "sums": _sums(paper, said, write),
        "notes": _notes(paper, said, write),
        "footer": branding.get("footer") or " · ".join([seller["name"], *_ids(seller)]),
    }
    clean: dict[str, Any] = _clean(view)
    return clean


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(CONTROLS)
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _clean(inner) for name, inner in value.items()}
    return value


def _address(address: dict[str, Any], party: dict[str, Any], write: _Writer) -> list[str]:
    town = " ".join(filter(None, [address.get("postal_code"), address.get("city")]))
    parts = [address.get("line1"), address.get("line2"), town, address.get("region")]
    parts.append(write.country(address.get("country")))
    parts.append(party.get("vat_id") if "account_id" in party else None)
    return [part for part in parts if part]


def _ids(seller: dict[str, Any]) -> list[str]:
    named = (("VAT", "vat_id"), ("Tax no.", "tax_number"), ("IBAN", "iban"), ("BIC", "bic"))
    return [f"{label} {seller[name]}" for label, name in named if seller.get(name)]


def _facts(paper: dict[str, Any], said: dict[str, str], write: _Writer) -> list[list[str]]:
    facts = [[said["number"], paper["number"]], [said["issued"], write.day(paper["issued_at"])]]
    if paper["due_at"]:
        facts.append([said["due"], write.day(paper["due_at"])])
    if paper["kind"] == "credit_note":
        facts.append([said["for_invoice"], paper["invoice_number"]])
    if paper["bill_to"].get("purchase_order"):
        facts.append([said["order"], paper["bill_to"]["purchase_order"]])
    return facts


def _row(line: dict[str, Any], write: _Writer) -> dict[str, Any]:
    notes = []
    if line["period_end"] > line["period_start"]:
        start, end = write.day(line["period_start"]), write.day(line["period_end"])
        notes.append(f"{start} {EN_DASH} {end}")
    why = line["why"].get("text") or line["why"].get("rule")
    if why:
        notes.append(str(why))
    return {
        "description": line["description"],
        "notes": notes,
        "quantity": write.number(line["quantity"]),
        "unit_price": write.price(line["unit_amount"]),
        "tax_rate": f"{write.number(line['tax_rate'])} %",
        "amount": write.money(line["amount"]),
    }


def _sums(paper: dict[str, Any], said: dict[str, str], write: _Writer) -> list[dict[str, Any]]:
    rows: list[tuple[str, int, bool]] = []
    if paper["discount"]:
        rows.append((said["subtotal"], paper["subtotal"], False))
        rows.append((said["discount"], -paper["discount"], False))
    rows.append((said["net"], paper["net"], False))
    for group in paper["taxes"]:
        taxable = write.money(group["taxable"])
        label = said["tax_on"].format(rate=write.number(group["rate"]), taxable=taxable)
        rows.append((label, group["tax"], False))
    rows.append((said["total"], paper["total"], True))
    if paper["credit_applied"]:
        rows.append((said["credit_applied"], -paper["credit_applied"], False))
    if paper["kind"] == "invoice":
        rows.append((said["amount_due"], paper["amount_due"], True))
    return [
        {"label": label, "amount": write.money(amount), "strong": strong}
        for label, amount, strong in rows
    ]


def _notes(paper: dict[str, Any], said: dict[str, str], write: _Writer) -> list[str]:
    notes = []
    for group in paper["taxes"]:
        if group["category"] == "AE":
            notes.append(said["reverse_charge"])
        elif group["exemption_reason"]:
            notes.append(group["exemption_reason"])
    if paper["memo"]:
        notes.append(paper["memo"])
    if paper["collect_automatically"] and paper["amount_due"]:
        notes.append(said["automatic"])
    if paper["accounting"]:
        other = paper["accounting"]
        notes.append(
            said["in_accounting"].format(
                currency=other["currency"],
                rate=write.number(other["rate"]),
                on=write.day(f"{other['on']}T00:00:00"),
                total=write.money(other["total"], other["currency"]),
                tax=write.money(other["tax"], other["currency"]),
            )
        )
    return notes
