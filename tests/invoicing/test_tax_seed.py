"""Rates that are on file from the start, with their history; and a tax engine that is installed."""

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import eu_vat_rates_data
import httpx
import pytest

from services.invoicing.domain.tax import EU, Buyer, Seller, TableTaxEngine, TaxCode, TaxDecision
from services.invoicing.domain.vat_history import CHANGES, EARLIEST, history
from services.invoicing.use_cases.finalize_invoice import tax_engine
from services.invoicing.use_cases.seed import seed
from shared.clock import utc_now
from shared.errors import Invalid
from shared.events.invoicing import InvoiceFinalized
from tests.eventlog import EventLog
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, Publish, body
from tests.invoicing.factories import a_started

KNOWN_ON = date(2026, 9, 29)


def test_the_history_ends_with_what_the_source_says_today() -> None:
    for (country, category), changes in CHANGES.items():
        found: Any = eu_vat_rates_data.get_rate(country)
        today = found["standard"] if category == "standard" else found["reduced"][0]
        assert Decimal(changes[-1][1]) == Decimal(str(today)), (country, category)
        assert country in EU


@pytest.mark.parametrize("country", sorted(EU))
def test_the_rates_of_a_country_leave_no_day_out(country: str) -> None:
    today = Decimal(str(eu_vat_rates_data.get_standard_rate(country)))

    rates = history(country, "standard", today=today, known_on=KNOWN_ON, source="test")

    assert rates[0].valid_from == EARLIEST
    assert rates[-1].valid_to is None
    assert [rate.valid_to for rate in rates[:-1]] == [rate.valid_from for rate in rates[1:]]
    assert all(rate.source for rate in rates)


def test_a_change_that_only_the_source_knows_rewrites_nothing() -> None:
    *before, last = history(
        "DE", "standard", today=Decimal(20), known_on=KNOWN_ON, source="tomorrow's"
    )

    assert [str(rate.rate) for rate in before] == ["19", "16", "19"]
    assert before[-1].valid_to == last.valid_from == KNOWN_ON
    assert (last.rate, last.source) == (Decimal(20), "tomorrow's")


def test_without_a_rate_of_the_category_the_standard_rate_is_due() -> None:
    decision = TableTaxEngine().decide(
        seller=Seller(country="DE"),
        buyer=Buyer(country="AT"),
        category="reduced",
        rate_of=lambda _, category: Decimal(20) if category == "standard" else None,
    )

    assert (decision.code, decision.rate) == (TaxCode.STANDARD, Decimal(20))
    assert decision.why == "Standard rate of AT: 20 %. No reduced rate is on file."


@pytest.mark.parametrize(
    "wrong",
    [
        {"code": TaxCode.STANDARD, "rate": Decimal(0)},
        {"code": TaxCode.ZERO, "rate": Decimal(7)},
        {"code": TaxCode.EXEMPT, "rate": Decimal(0)},
    ],
)
def test_what_cannot_be_on_an_invoice_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        TaxDecision(country="DE", why="", **wrong)


ENGINE = """
from decimal import Decimal
from services.invoicing.domain.tax import TaxCode, TaxDecision

class Tenth:
    def decide(self, *, seller, buyer, category, rate_of):
        return TaxDecision(
            code=TaxCode.STANDARD, rate=Decimal(10), country=buyer.country, why="A tenth."
        )
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which packages are found as if they were installed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    tax_engine.cache_clear()
    yield tmp_path
    tax_engine.cache_clear()
    sys.modules.pop("tenth_tax", None)


def install(folder: Path, name: str) -> None:
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[perennial.tax_engines]\n{name} = tenth_tax:Tenth\n")
    (folder / "tenth_tax.py").write_text(ENGINE)


def test_an_installed_engine_takes_the_tables_place(installed: Path) -> None:
    assert isinstance(tax_engine(), TableTaxEngine)
    tax_engine.cache_clear()
    install(installed, "tenth")

    decision = tax_engine().decide(
        seller=Seller(country="DE"),
        buyer=Buyer(country="DE"),
        category="standard",
        rate_of=lambda *_: None,
    )

    assert (decision.rate, decision.why) == (Decimal(10), "A tenth.")


def test_two_installed_engines_are_refused_by_name(installed: Path) -> None:
    install(installed, "tenth")
    install(installed, "ninth")

    with pytest.raises(RuntimeError, match="ninth, tenth"):
        tax_engine()


@pytest.mark.servers
async def test_a_supply_bears_the_rate_of_its_day(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    events: EventLog,
    publish: Publish,
    new_account: NewAccount,
) -> None:
    rates = []
    for day in (datetime(2020, 8, 1, tzinfo=UTC), datetime(2021, 8, 1, tzinfo=UTC)):
        account = await new_account("DE")
        await publish(a_started(account, period_start=day))
        finalized = await events.next(InvoiceFinalized, about=account)
        invoice = body(await http.get(f"/v1/invoices/{finalized.invoice_id}", headers=staff))
        rates.append(invoice["taxes"][0]["rate"])

    assert rates == ["16", "19"]


@pytest.mark.servers
async def test_seeding_again_leaves_what_somebody_changed(
    http: httpx.AsyncClient, staff: dict[str, str], invoicing: Running
) -> None:
    query = {"country": "NL", "category": "reduced"}
    before = body(await http.get("/v1/tax-rates", params=query, headers=staff))["data"]
    change = query | {"rate": "10", "valid_from": "2030-01-01"}
    body(await http.post("/v1/tax-rates", json=change, headers=staff))

    async with invoicing.runtime.begin() as uow:
        await seed(uow, at=utc_now())

    after = body(await http.get("/v1/tax-rates", params=query, headers=staff))["data"]
    assert [rate["rate"] for rate in before] == ["9"]
    assert sorted(rate["rate"] for rate in after) == ["10", "9"]
