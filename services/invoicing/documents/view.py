"""What a document shows: each value written as its reader writes it."""

import re
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

from babel import Locale
from babel.dates import format_date
from babel.numbers import format_currency, format_decimal, get_minus_sign_symbol

from services.invoicing.documents.einvoice import buyer_name
from services.invoicing.documents.labels import LANGUAGES, words
from services.invoicing.documents.why import formulas, terms
from shared.money import exponent

ACCENT = "#1f4e79"
EN_DASH, NO_BREAK = "\u2013", "\u00a0"
#: How subscriptions ends what it writes about a period.
DATES = re.compile(r", \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d$")
#: Tax categories (UNCL 5305) whose note is the same for everybody.
TREATMENTS = {"AE": "reverse_charge", "G": "export"}
#: By which amounts are turned the way their language is read; arithmetic is not.
MARKS = dict.fromkeys((0x200E, 0x200F, 0x061C))
#: Where letters are not A4.
LETTER = {"US", "CA", "MX", "CL", "CO", "PH"}
#: Where an address ends with `Springfield, IL 62701`.
REGION_AND_CODE_LAST = {"US", "CA", "AU"}


class Writer:
    """Numbers and dates as the reader's language writes them."""

    def __init__(self, language: str, currency: str) -> None:
        self.language = language if language in LANGUAGES else "en"
        self.locale = Locale.parse(self.language)
        self.currency = currency
        self.minus = str(get_minus_sign_symbol(self.locale))

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


def view_of(paper: dict[str, Any], logo: bytes | None) -> dict[str, Any]:
    """What the template needs, as text."""
    bill_to, seller = paper["bill_to"], paper["seller"]
    write = Writer(bill_to.get("language") or "en", paper["currency"])
    said = words(write.language)
    branding = seller.get("branding") or {}
    return {
        "words": said,
        "language": write.language,
        "rtl": write.locale.text_direction == "rtl",
        "page": "us-letter" if seller["country"] in LETTER else "a4",
        "color": branding.get("color") or ACCENT,
        "logo": list(logo) if logo else None,
        "title": said[paper["kind"]],
        "number": paper["number"],
        "seller": {
            "name": seller["name"],
            "lines": [*_address(seller["address"], write), *_ids(seller)],
        },
        "buyer": {
            "name": buyer_name(bill_to),
            "lines": [*_address(bill_to["address"], write), *_vat_id(bill_to)],
        },
        "facts": _facts(paper, said, write),
        "lines": [_row(line, write) for line in paper["lines"]],
        "sums": _sums(paper, said, write),
        "notes": _notes(paper, said, write),
        "footer": branding.get("footer") or " · ".join([seller["name"], *_ids(seller)]),
    }


def _address(address: dict[str, Any], write: Writer) -> list[str]:
    city, code, region = (address.get(name) for name in ("city", "postal_code", "region"))
    if address.get("country") in REGION_AND_CODE_LAST:
        end = " ".join(filter(None, [region, code]))
        town = [", ".join(filter(None, [city, end]))]
    else:
        town = [" ".join(filter(None, [code, city])), region or ""]
    parts = [address.get("line1"), address.get("line2"), *town]
    parts.append(write.country(address.get("country")))
    return [part for part in parts if part]


def _vat_id(bill_to: dict[str, Any]) -> list[str]:
    return [f"VAT {bill_to['vat_id']}"] if bill_to.get("vat_id") else []


def _ids(seller: dict[str, Any]) -> list[str]:
    named = (("VAT", "vat_id"), ("Tax no.", "tax_number"), ("IBAN", "iban"), ("BIC", "bic"))
    return [f"{label} {seller[name]}" for label, name in named if seller.get(name)]


def _facts(paper: dict[str, Any], said: dict[str, str], write: Writer) -> list[list[str]]:
    facts = [[said["number"], paper["number"]], [said["issued"], write.day(paper["issued_at"])]]
    if paper["due_at"]:
        facts.append([said["due"], write.day(paper["due_at"])])
    if paper["kind"] == "credit_note":
        facts.append([said["for_invoice"], paper["invoice_number"]])
    if paper["bill_to"].get("purchase_order"):
        facts.append([said["order"], paper["bill_to"]["purchase_order"]])
    return facts


def _row(line: dict[str, Any], write: Writer) -> dict[str, Any]:
    description, period = line["description"], None
    if line["period_end"] > line["period_start"]:
        start, end = line["period_start"], line["period_end"]
        period = f"{write.day(start)} {EN_DASH} {write.day(end)}"
        # Said already, and in the reader's own way.
        description = DATES.sub("", description)
    return {
        "description": description,
        "period": period,
        "why": [
            formula.translate(MARKS)
            for formula in [
                *terms(line["parts"], write),
                *formulas(line["why"], write, summed=bool(line["parts"])),
            ]
        ],
        "quantity": write.number(line["quantity"]),
        "unit": line["unit"],
        "unit_price": write.price(line["unit_amount"]),
        "tax_rate": f"{write.number(line['tax_rate'])} %",
        "amount": write.money(line["amount"]),
    }


def _sums(paper: dict[str, Any], said: dict[str, str], write: Writer) -> list[dict[str, Any]]:
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


def _notes(paper: dict[str, Any], said: dict[str, str], write: Writer) -> list[str]:
    notes = []
    for group in paper["taxes"]:
        if group["category"] in TREATMENTS:
            notes.append(said[TREATMENTS[group["category"]]])
        elif group["exemption_reason"]:
            notes.append(group["exemption_reason"])
    if paper["memo"]:
        notes.append(paper["memo"])
    if paper["kind"] == "invoice" and paper["amount_due"]:
        iban = paper["seller"].get("iban")
        if paper["collect_automatically"]:
            notes.append(said["automatic"])
        elif iban:
            notes.append(said["transfer"].format(iban=_spaced(iban), number=paper["number"]))
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


def _spaced(iban: str) -> str:
    """In fours, as it is read out."""
    return NO_BREAK.join(iban[i : i + 4] for i in range(0, len(iban), 4))
