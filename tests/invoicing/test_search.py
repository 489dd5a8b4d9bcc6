"""Searching invoices: typos included, by an index, and within one's own account."""

import contextlib
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import Connection

from services.invoicing.queries import list_invoices
from shared.db import Scope
from shared.pages import PageRequest
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, body, key
from tests.tokens import TokenIssuer

#: Invoices of a hundred other accounts, with what looks like names and numbers.
FILLER = """
INSERT INTO invoices ({columns})
SELECT {values} FROM invoices i, generate_series(1, 3000) n
WHERE i.id = :template
"""
CHANGED = {
    "id": "gen_random_uuid()",
    "account_id": "md5((n % 100)::text)::uuid",
    "number": "'FILL-' || n",
    "search_text": "'FILL-' || n || ' ' || md5(n::text) || ' ' || md5((n * 7)::text)",
}


async def invoice(
    http: httpx.AsyncClient, staff: dict[str, str], account: Any, description: str
) -> dict[str, Any]:
    wanted = {
        "account_id": str(account),
        "currency": "EUR",
        "lines": [{"description": description, "unit_amount": "100"}],
    }
    made: dict[str, Any] = body(await http.post("/v1/invoices", json=wanted, headers=staff | key()))
    return made


async def test_a_line_a_name_or_a_number_is_found_with_a_typo_and_by_its_own_account_alone(
    http: httpx.AsyncClient, staff: dict[str, str], issuer: TokenIssuer, new_account: NewAccount
) -> None:
    mine, other = await new_account(), await new_account()
    acting = staff | {"Perennial-Account": str(mine)}
    await http.put("/v1/billing-details", json={"name": "Brontë & Söhne"}, headers=acting)
    wanted = await invoice(http, staff, mine, "Observatory subscription, March")
    await invoice(http, staff, mine, "Consulting")
    await invoice(http, staff, other, "Observatory subscription, March")

    async def found(q: str) -> list[str]:
        answer = await http.get("/v1/invoices", params={"q": q}, headers=issuer.of_account(mine))
        return [one["id"] for one in body(answer)["data"]]

    for q in ("observatory", "Obsrvatory", "march observatroy", wanted["number"]):
        assert await found(q) == [wanted["id"]], q
    assert len(await found("Bronte")) == 2
    assert await found("100% of_it\\") == []


@pytest.mark.parametrize("mine", [True, False])
async def test_a_search_reads_an_index_and_not_all_invoices(
    http: httpx.AsyncClient,
    staff: dict[str, str],
    invoicing: Running,
    new_account: NewAccount,
    mine: bool,
) -> None:
    account = await new_account()
    template = (await invoice(http, staff, account, "Observatory subscription"))["id"]
    scope = Scope(account_id=account if mine else None)
    sent: list[tuple[str, Any]] = []

    class Done(Exception):
        """Nothing of the filler stays."""

    with contextlib.suppress(Done):
        async with invoicing.runtime.begin(scope) as uow:
            names = (
                await uow.session.scalars(
                    text(
                        "SELECT attname FROM pg_attribute WHERE attnum > 0"
                        " AND attrelid = 'invoices'::regclass AND NOT attisdropped"
                    )
                )
            ).all()
            await uow.session.execute(
                text(
                    FILLER.format(
                        columns=", ".join(names),
                        values=", ".join(CHANGED.get(name, f"i.{name}") for name in names),
                    )
                ),
                {"template": template},
            )
            await uow.session.execute(text("ANALYZE invoices"))
            # So few are read faster whole; what is asked is whether the index can answer.
            await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
            # So few are read faster whole; what is asked is whether the index can answer.
            await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
            connection = await uow.session.connection()

            def note(_: Connection, __: Any, statement: str, parameters: Any, *___: Any) -> None:
                sent.append((statement, parameters))

            listened = connection.sync_connection
            event.listen(listened, "before_cursor_execute", note)
            page = await list_invoices(uow, PageRequest(50, None), q="Obsrvatory")
            found = [one.id for one in page]
            event.remove(listened, "before_cursor_execute", note)
            statement, parameters = next(one for one in sent if "<%" in one[0])
            plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
            steps = "\n".join(row[0] for row in plan)
            raise Done

    assert UUID(template) in found
    assert "Seq Scan" not in steps, steps
    wanted = ("ix_invoices_account_id_id", "ix_invoices_search_text")
    assert any(index in steps for index in (wanted if mine else wanted[1:])), steps
