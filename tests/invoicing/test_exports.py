"""Exports for bookkeeping, and exchange rates from the ECB."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from services.invoicing.commands import import_ecb_rates_command
from services.invoicing.schedule import fetch_exchange_rates
from services.invoicing.use_cases.import_ecb_rates import NotEcbRates, read_ecb_rates
from shared.clock import utc_now
from shared.errors import Unavailable
from shared.schedule import Due
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, body, key
from tests.tokens import TokenIssuer

ECB = b"""<?xml version="1.0" encoding="UTF-8"?>
<gesmes:Envelope xmlns:gesmes="http://www.gesmes.org/xml/2002-08-01"
  xmlns="http://www.ecb.int/vocabulary/2002-08-01/eurofxref">
  <Cube><Cube time='2026-02-27'>
    <Cube currency='USD' rate='1.1000'/><Cube currency='SEK' rate='11.2345'/>
  </Cube></Cube>
</gesmes:Envelope>"""


def test_the_ecbs_file_is_read_both_ways() -> None:
    rates = {(rate.base, rate.quote): rate.rate for rate in read_ecb_rates(ECB)}

    assert rates["EUR", "USD"] == Decimal("1.1")
    assert rates["USD", "EUR"] == Decimal("0.909090909091")
    assert len(rates) == 4


@pytest.mark.parametrize(
    "xml", [b"", b"<html/>", b"<!DOCTYPE x><x/>", ECB.replace(b"1.1000", b"one")]
)
def test_what_is_not_the_ecbs_file_is_refused(xml: bytes) -> None:
    with pytest.raises(NotEcbRates):
        read_ecb_rates(xml)


@pytest.mark.servers
async def test_the_command_stores_what_is_new(
    invoicing: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ecb.xml"
    file.write_bytes(ECB)

    for _ in range(2):
        assert await import_ecb_rates_command(invoicing.runtime, [str(file)]) == 0

    out = capsys.readouterr().out
    assert "4 exchange rates were new." in out
    assert "0 exchange rates were new." in out
    with pytest.raises(Unavailable):
        await import_ecb_rates_command(invoicing.runtime, [str(tmp_path / "none")])


@pytest.fixture
def ecb() -> Iterator[str]:
    """The address of a server that has the file, as the ECB's does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ECB.replace(b"2026-02-27", b"2026-02-26"))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/eurofxref-daily.xml"
        server.shutdown()


@pytest.mark.servers
async def test_a_worker_fetches_the_days_rates_where_it_is_told_to(
    invoicing: Running, ecb: str
) -> None:
    settings = invoicing.runtime.settings.model_copy(update={"ecb_rates_url": ecb})
    runtime = replace(invoicing.runtime, settings=settings)
    due = Due(utc_now(), invoicing.runtime.database.platform)

    for _ in range(2):
        await fetch_exchange_rates(runtime, due)

    async with invoicing.runtime.begin() as uow:
        dollars = await uow.rates.exchange_on("EUR", "USD", date(2026, 2, 26))
        by_euro = await uow.rates.exchange_on("USD", "SEK", date(2026, 2, 26))
    assert dollars is not None
    assert by_euro is not None
    assert (dollars.rate, dollars.on, dollars.source) == (
        Decimal("1.1"),
        date(2026, 2, 26),
        "ECB",
    )
    assert (by_euro.rate, by_euro.source) == (Decimal("10.213181818182"), "ECB, by way of EUR")


@pytest.mark.servers
async def test_exports_end_with_a_row_of_sums_that_match(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    account, other = await new_account(), await new_account()
    for owner, currency in ((account, "EUR"), (account, "EUR"), (account, "JPY"), (other, "EUR")):
        wanted = {
            "account_id": str(owner),
            "currency": currency,
            "lines": [
                {"description": "=HYPERLINK()", "unit_amount": "1000"},
                {"description": "Two", "unit_amount": "333"},
            ],
        }
        await http.post("/v1/invoices", json=wanted, headers=staff | key())
    period = {"from": "2020-01-01T00:00:00Z", "to": "2040-01-01T00:00:00Z"}
    me = issuer.of_account(account)

    answer = await http.get("/v1/exports/invoices", params=period, headers=me)
    lines = await http.get("/v1/exports/lines", params={**period, "format": "jsonl"}, headers=me)
    table = await http.get("/v1/exports/lines", params=period, headers=me)
    nothing = await http.get(
        "/v1/exports/invoices", params={**period, "to": "2020-01-02T00:00:00Z"}, headers=me
    )

    *rows, euros, yen = csv.DictReader(io.StringIO(answer.text))
    assert len(rows) == 3
    assert (euros["number"], euros["currency"], yen["currency"]) == ("TOTAL", "EUR", "JPY")
    assert Decimal(euros["total"]) == sum(
        Decimal(row["total"]) for row in rows if row["currency"] == "EUR"
    )
    assert (euros["total"], yen["total"]) == ("31.72", "1586")
    parsed = [json.loads(line) for line in lines.text.splitlines()]
    assert [row["net"] for row in parsed[-2:]] == ["26.66", "1333"]
    assert "'=HYPERLINK()" in table.text
    assert nothing.text.count("\n") == 1
    mine = body(await http.get("/v1/invoices", headers=me))
    assert {row["number"] for row in rows} == {invoice["number"] for invoice in mine["data"]}
    by_staff = body(
        await http.get("/v1/invoices", params={"account_id": str(account)}, headers=staff)
    )
    assert by_staff == mine
    for beyond in ("1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "2030-01-01T00:00:00"):
        refused = await http.get("/v1/exports/lines", params={**period, "to": beyond}, headers=me)
        assert refused.status_code == 422
