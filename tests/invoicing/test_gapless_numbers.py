"""Numbers without a gap: under concurrency, over two entities, with a process killed midway."""

import asyncio
import contextlib
import signal
import sys
from decimal import Decimal
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select, text

from services.invoicing.tables import invoices
from services.invoicing.use_cases.draft_invoice import (
    NewInvoice,
    NewLine,
    draft_invoice,
    finalize_draft,
)
from shared.clock import utc_now
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, body, until

pytestmark = pytest.mark.servers

#: Takes a number as a finalization does, and then hangs with it, not committed.
HOLD = """
import asyncio, asyncpg, sys
async def main():
    c = await asyncpg.connect(sys.argv[1])
    await c.execute("BEGIN")
    await c.execute(
        "UPDATE number_series SET last = last + 1 "
        "WHERE legal_entity_id = $1::uuid AND series = 'invoice'", sys.argv[2])
    print("held", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""

WAITING = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%number_series%'
"""


async def an_entity(http: httpx.AsyncClient, staff: dict[str, str], name: str) -> str:
    entity = {"name": name, "country": "DE", "number_pattern": f"{name}-{{seq:05}}"}
    made: str = body(await http.post("/v1/legal-entities", json=entity, headers=staff))["id"]
    return made


async def drafts_of(invoicing: Running, account: UUID, entity: str, count: int) -> list[UUID]:
    now = utc_now()
    line = NewLine(
        description="One",
        quantity=Decimal(1),
        unit_amount=Decimal(100),
        tax_category="standard",
        tax_behavior="exclusive",
        period_start=now,
        period_end=now,
    )
    async with invoicing.runtime.begin() as uow:
        (await uow.accounts.get(account)).legal_entity_id = UUID(entity)
        await uow.session.flush()
        new = NewInvoice(account_id=account, currency="EUR", lines=[line])
        return [(await draft_invoice(uow, new, at=now)).id for _ in range(count)]


async def test_200_at_once_over_two_entities_with_a_killed_process(
    http: httpx.AsyncClient, staff: dict[str, str], invoicing: Running, new_account: NewAccount
) -> None:
    entities = [await an_entity(http, staff, "North"), await an_entity(http, staff, "South")]
    drafts = []
    for entity in entities:
        drafts += await drafts_of(invoicing, await new_account(), entity, 100)

    # As many at once as there are connections: who waits for one too long is refused.
    turns = asyncio.Semaphore(invoicing.runtime.settings.database_pool_size)

    async def finalize(invoice_id: UUID) -> None:
        async with turns, invoicing.runtime.begin() as uow:
            await finalize_draft(uow, await uow.invoices.get(invoice_id), at=utc_now())

    async def give_up(invoice_id: UUID) -> None:
        """A finalization that takes its number and then fails."""
        with contextlib.suppress(ZeroDivisionError):
            async with turns, invoicing.runtime.begin() as uow:
                await finalize_draft(uow, await uow.invoices.get(invoice_id), at=utc_now())
                await uow.number_invoices()
                raise ZeroDivisionError

    url = invoicing.runtime.settings.database_url.get_secret_value()
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, url, entities[0], stdout=asyncio.subprocess.PIPE
    )
    assert killed.stdout is not None
    assert await killed.stdout.readline() == b"held\n"
    # Those of the other entity do not wait for the one that hangs.
    await asyncio.gather(*[finalize(draft) for draft in drafts[100:150]])
    rest = asyncio.gather(
        *[give_up(draft) for draft in drafts[:5]],
        *[finalize(draft) for draft in drafts[5:100]],
        *[finalize(draft) for draft in drafts[150:]],
    )

    async def somebody_waits() -> bool:
        async with invoicing.runtime.begin() as uow:
            return bool(await uow.session.scalar(text(WAITING)))

    await until(somebody_waits)
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    await rest
    await asyncio.gather(*[finalize(draft) for draft in drafts[:5]])

    for entity, name in zip(entities, ("North", "South"), strict=True):
        async with invoicing.runtime.begin() as uow:
            numbers = await uow.session.scalars(
                select(invoices.c.number)
                .where(invoices.c.legal_entity_id == UUID(entity))
                .order_by(invoices.c.number)
            )
            assert list(numbers) == [f"{name}-{n:05}" for n in range(1, 101)]
