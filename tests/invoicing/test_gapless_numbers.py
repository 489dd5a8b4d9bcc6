"""Numbers without a gap: under concurrency, over two entities, with a process killed midway."""

import asyncio
import contextlib
import os
import signal
import sys
from decimal import Decimal
from uuid import UUID

import httpx
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

#: Finalizes a draft with the code that does it, and hangs before the commit, its number taken.
HOLD = """
import asyncio, sys
from uuid import UUID
from services.invoicing.main import service
from services.invoicing.settings import InvoicingSettings
from services.invoicing.use_cases.draft_invoice import finalize_draft
from shared.clock import utc_now

async def main():
    async with service.open(InvoicingSettings()) as runtime, runtime.begin() as uow:
        await finalize_draft(uow, await uow.invoices.get(UUID(sys.argv[1])), at=utc_now())
        await uow.number_invoices()
        await uow.session.flush()
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def hanging(invoicing: Running, draft: UUID) -> asyncio.subprocess.Process:
    """A process of its own in the middle of finalizing a draft."""
    settings = invoicing.runtime.settings
    environment = {
        **os.environ,
        "PERENNIAL_DATABASE_URL": settings.database_url.get_secret_value(),
        "PERENNIAL_BROKER_URL": settings.broker_url.get_secret_value(),
        "PERENNIAL_REDIS_URL": settings.redis_url.get_secret_value(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(draft), stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if line == b"held\n":
            return process
    raise AssertionError("it ended before it held a number")


#: Who waits for a lock in this database.
WAITING = """
SELECT count(*) FROM pg_stat_activity
 WHERE wait_event_type = 'Lock' AND datname = current_database()
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

    killed = await hanging(invoicing, drafts[5])
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
