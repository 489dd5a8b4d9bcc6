"""Rendering when it goes wrong: renderers that die, documents that are not valid, lost files."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, update

from services.invoicing.documents import pool as pools
from services.invoicing.documents.pool import RenderPool
from services.invoicing.domain.document import MOST_ATTEMPTS, Document, DocumentState, Subject
from services.invoicing.queries import read_document
from services.invoicing.schedule import render_documents
from services.invoicing.tables import documents, invoices
from services.invoicing.use_cases.take_in_account import take_in_account
from shared.clock import utc_now
from shared.events.auth import AccountRegistered
from shared.ids import new_id
from shared.schedule import Due
from tests.conftest import service_named
from tests.harness import Running, deployed_alone, running
from tests.invoicing.conftest import body, key, until
from tests.invoicing.test_einvoice import a_paper
from tests.servers import Servers
from tests.tokens import TokenIssuer

pytestmark = pytest.mark.servers


@pytest.fixture(scope="session")
async def invoicing_alone(
    servers: Servers, issuer: TokenIssuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """Invoicing with a database of its own and no worker: the test says when it renders."""
    service = service_named("invoicing")
    folder = str(tmp_path_factory.mktemp("alone"))
    async with (
        deployed_alone("invoicing", servers) as place,
        running(service, place, issuer, worker=False, object_store_url=folder) as made,
    ):
        await service.after_migrate(made.runtime)
        yield made


@pytest.fixture
async def alone(invoicing_alone: Running) -> Running:
    """The same, with nothing left to render."""
    async with invoicing_alone.runtime.begin() as uow:
        await uow.session.execute(delete(documents))
    return invoicing_alone


async def an_open_invoice(alone: Running, staff: dict[str, str]) -> dict[str, Any]:
    account_id = new_id()
    known = AccountRegistered(
        occurred_at=utc_now(), account_id=account_id, sequence=1, country="DE", time_zone="UTC"
    )
    async with alone.runtime.begin() as uow:
        await take_in_account(uow, known)
    wanted = {
        "account_id": str(account_id),
        "currency": "EUR",
        "lines": [{"description": "Set-up", "unit_amount": "80000"}],
    }
    made: dict[str, Any] = body(
        await alone.http.post("/v1/invoices", json=wanted, headers=staff | key())
    )
    return made


async def render(alone: Running) -> int:
    return await render_documents(alone.runtime, Due(utc_now(), alone.runtime.database.platform))


async def the_document(alone: Running, invoice: dict[str, Any]) -> Document:
    async with alone.runtime.begin() as uow:
        return await read_document(uow, invoice["id"])


async def due_now(alone: Running) -> None:
    """The pause after a failure, or the lease of who died, is over."""
    async with alone.runtime.begin() as uow:
        await uow.session.execute(update(documents).values(due_at=utc_now()))


async def get_pdf(alone: Running, invoice: dict[str, Any], staff: dict[str, str]) -> httpx.Response:
    """Ask for it, and render as a worker would while that waits."""

    async def made() -> httpx.Response | None:
        path = f"/v1/invoices/{invoice['id']}/pdf"
        asked = asyncio.create_task(alone.http.get(path, headers=staff))
        while not asked.done():
            await render(alone)
            await asyncio.sleep(0.02)
        return answer if (answer := await asked).status_code != 409 else None

    found = await until(made, within=90)
    assert found is not None
    return found


async def stuck(alone: Running, staff: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = body(
        await alone.http.get("/v1/ops/invoicing/stuck", headers=staff)
    )["data"]
    return [one for one in found if one["kind"] == "document"]


async def test_a_document_that_is_not_valid_is_parked_with_its_reason_until_it_is_mended(
    alone: Running, staff: dict[str, str]
) -> None:
    invoice = await an_open_invoice(alone, staff)
    name_it = update(invoices).where(invoices.c.id == invoice["id"])
    async with alone.runtime.begin() as uow:
        await uow.session.execute(name_it.values(number=""))
    await render(alone)

    refused = await alone.http.get(f"/v1/invoices/{invoice['id']}/pdf", headers=staff)
    [seen] = await stuck(alone, staff)
    async with alone.runtime.begin() as uow:
        await uow.session.execute(name_it.values(number=invoice["number"]))
    path = seen["next_step"].partition("POST ")[2].rstrip(".")
    asked = await alone.http.post(path, headers=staff)
    mended = await get_pdf(alone, invoice, staff)

    assert refused.json()["code"] == "document-not-ready"
    assert seen["id"] == invoice["id"]
    assert "BT-1" in seen["reason"]
    assert asked.status_code == 202
    assert mended.content.startswith(b"%PDF")
    assert await stuck(alone, staff) == []


async def test_only_staff_have_a_document_made_again(
    alone: Running, staff: dict[str, str], issuer: TokenIssuer
) -> None:
    invoice = await an_open_invoice(alone, staff)
    path = f"/v1/ops/invoicing/documents/{invoice['id']}/render"

    mine = await alone.http.post(path, headers=issuer.of_account(invoice["account_id"]))
    none = await alone.http.post(path.replace(invoice["id"], str(new_id())), headers=staff)

    assert (mine.status_code, none.status_code) == (403, 404)


async def test_what_ends_its_worker_again_and_again_is_parked(
    alone: Running, staff: dict[str, str]
) -> None:
    invoice = await an_open_invoice(alone, staff)
    for _ in range(MOST_ATTEMPTS):
        # Taken up by a worker that never comes back.
        async with alone.runtime.begin() as uow:
            document = await uow.documents.next_due(utc_now())
            assert document is not None
            document.claim(at=utc_now(), lease_seconds=90)
        assert await render(alone) == 0
        await due_now(alone)

    await render(alone)

    assert (await the_document(alone, invoice)).state is DocumentState.FAILED
    [seen] = await stuck(alone, staff)
    assert "ended over it" in seen["reason"]


async def test_a_renderer_that_is_killed_costs_one_attempt_and_the_next_one_makes_it(
    alone: Running, staff: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    invoice = await an_open_invoice(alone, staff)
    pool: RenderPool = alone.runtime.own["render_pool"]
    with monkeypatch.context() as slow:
        slow.setattr(pools, "render", _hang)
        rendering = asyncio.create_task(render(alone))
        [renderer] = pool._all
        await until(lambda: _started(renderer))
        for process in renderer._executor._processes.values():  # type: ignore[union-attr]
            process.kill()
        await rendering
    after_the_kill = await the_document(alone, invoice)

    await due_now(alone)
    await render(alone)

    assert after_the_kill.state is DocumentState.PENDING
    assert "BrokenProcessPool" in (after_the_kill.error or "")
    made = await the_document(alone, invoice)
    assert (made.state, made.attempts, made.error) == (DocumentState.READY, 2, None)


@pytest.mark.parametrize("loss", ["removed", "damaged"])
async def test_a_file_that_is_lost_or_damaged_is_made_again_and_is_the_same(
    alone: Running, staff: dict[str, str], loss: str
) -> None:
    invoice = await an_open_invoice(alone, staff)
    before = await get_pdf(alone, invoice, staff)
    folder = alone.runtime.own["object_store"].folder
    stored = folder / (await the_document(alone, invoice)).key("pdf")
    if loss == "removed":
        stored.unlink()
    else:
        stored.write_bytes(b"%PDF-1.7 and then nothing")

    after = await get_pdf(alone, invoice, staff)

    assert after.content == before.content
    assert stored.read_bytes() == before.content


async def test_who_comes_second_after_a_lease_ran_out_changes_nothing(
    alone: Running, staff: dict[str, str]
) -> None:
    invoice = await an_open_invoice(alone, staff)
    await render(alone)
    async with alone.runtime.begin() as uow:
        document = await uow.documents.get(invoice["id"])
        before = document.key("pdf"), document.key("xml")
        document.made(pdf=(1, "other"), xml=(1, "other"))

    document = await the_document(alone, invoice)

    assert (document.key("pdf"), document.key("xml")) == before


# ---- the pool itself


def _hang(*_: Any) -> None:
    """In a rendering process: work that does not end."""
    import threading  # noqa: PLC0415

    threading.Event().wait()


async def _started(renderer: Any) -> bool:
    executor = renderer._executor
    return executor is not None and bool(executor._processes)


@pytest.fixture
async def pool() -> AsyncIterator[RenderPool]:
    made = RenderPool(2)
    yield made
    made.close()


async def test_a_renderer_that_dies_takes_no_other_document_with_it(
    pool: RenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as slow:
        slow.setattr(pools, "render", _hang)
        hanging = asyncio.create_task(pool.render(a_paper()))
        await until(lambda: _any_busy(pool))
    other = asyncio.create_task(pool.render(a_paper()))
    [busy] = [one for one in pool._all if one._busy and await _started(one)][:1]
    busy.kill()

    with pytest.raises(BrokenProcessPool):
        await hanging
    assert (await other).pdf.startswith(b"%PDF")
    assert (await pool.render(a_paper())).pdf.startswith(b"%PDF")


async def test_a_renderer_lets_everything_else_go_first(pool: RenderPool) -> None:
    await pool.render(a_paper())

    [renderer] = [one for one in pool._all if one._executor is not None]
    assert renderer._executor
    [pid] = renderer._executor._processes
    lag = os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, os.getpid())
    assert lag >= min(10, 19 - os.getpriority(os.PRIO_PROCESS, os.getpid()))


async def _any_busy(pool: RenderPool) -> bool:
    return any([one._busy and await _started(one) for one in pool._all])


async def test_one_that_takes_too_long_is_ended(
    pool: RenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.render(a_paper())
    with monkeypatch.context() as slow:
        slow.setattr(pools, "render", _hang)
        slow.setattr(pools, "TIMEOUT_SECONDS", 0.2)
        with pytest.raises(TimeoutError):
            await pool.render(a_paper())

    assert (await pool.render(a_paper())).pdf.startswith(b"%PDF")


async def test_a_process_that_made_or_took_enough_is_followed_by_another(
    pool: RenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def whose() -> set[int]:
        await pool.render(a_paper())
        return {pid for one in pool._all if one._executor for pid in one._executor._processes}

    first = await whose()
    assert await whose() == first
    monkeypatch.setattr(pools, "DOCUMENTS_PER_PROCESS", 3)
    await whose()
    second = await whose()
    assert second.isdisjoint(first)
    monkeypatch.setattr(pools, "BYTES_PER_PROCESS", 1)
    assert await whose() == set()


async def test_when_nothing_is_rendered_for_a_while_no_process_is_left(
    pool: RenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.render(a_paper())
    pool.rest()
    assert any(one._executor for one in pool._all)

    monkeypatch.setattr(pools, "IDLE_SECONDS", 0.0)
    pool.rest()

    assert not any(one._executor for one in pool._all)


def test_a_failure_is_tried_again_later_and_later_and_then_parked() -> None:
    now = utc_now()
    document = Document(
        id=new_id(), account_id=new_id(), subject=Subject.INVOICE, created_at=now, due_at=now
    )
    pauses = []
    for _ in range(MOST_ATTEMPTS):
        document.claim(at=now, lease_seconds=90)
        document.failed("It broke.", at=now)
        pauses.append(document.due_at - now)

    assert pauses == sorted(set(pauses))
    assert pauses[0] >= timedelta(seconds=5)
    assert document.state is DocumentState.FAILED
