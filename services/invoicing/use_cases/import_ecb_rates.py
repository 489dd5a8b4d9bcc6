"""Take in the reference rates that the European Central Bank publishes."""

from datetime import date
from decimal import Decimal, InvalidOperation
from xml.etree import ElementTree as ET

from services.invoicing.domain.exchange import ExchangeRate
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.use_cases.set_exchange_rate import store_exchange_rates
from shared.errors import Invalid
from shared.ids import new_id

CUBE = "{http://www.ecb.int/vocabulary/2002-08-01/eurofxref}Cube"
#: The daily file has one day; the history, 27 years of them.
URL = "https://www.ecb.europa.eu/stats/eurofxref/eurofxref-daily.xml"
ROWS_AT_ONCE = 1000


class NotEcbRates(Invalid):
    code = "not-ecb-rates"


def read_ecb_rates(xml: bytes) -> list[ExchangeRate]:
    """One euro in each currency, and each currency in euros, per day."""
    if b"<!DOCTYPE" in xml or b"<!ENTITY" in xml:
        raise NotEcbRates("A file with a document type is not one of the ECB's.")
    rates = []
    try:
        root = ET.fromstring(xml)  # noqa: S314  (no document type: nothing expands)
        for day in root.iter(CUBE):
            if "time" not in day.attrib:
                continue
            on = date.fromisoformat(day.attrib["time"])
            for cube in day.iter(CUBE):
                if "currency" in cube.attrib:
                    rates += _both_ways(cube.attrib["currency"], Decimal(cube.attrib["rate"]), on)
    except (ET.ParseError, ValueError, KeyError, InvalidOperation) as error:
        raise NotEcbRates(f"This is not a file of the ECB's reference rates: {error}.") from None
    if not rates:
        raise NotEcbRates("There are no rates in this file.")
    return rates


async def import_ecb_rates(uow: InvoicingUnitOfWork, xml: bytes) -> int:
    """Store what is new; how many that was. The same file twice changes nothing."""
    rates = read_ecb_rates(xml)
    new = 0
    for start in range(0, len(rates), ROWS_AT_ONCE):
        new += await store_exchange_rates(uow, rates[start : start + ROWS_AT_ONCE])
    return new


def _both_ways(currency: str, rate: Decimal, on: date) -> list[ExchangeRate]:
    inverse = (1 / rate).quantize(Decimal("1.000000000000"))
    return [
        ExchangeRate(id=new_id(), base="EUR", quote=currency, rate=rate, on=on, source="ECB"),
        ExchangeRate(id=new_id(), base=currency, quote="EUR", rate=inverse, on=on, source="ECB"),
    ]
