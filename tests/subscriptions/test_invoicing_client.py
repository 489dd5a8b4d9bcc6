"""How invoicing is asked for prices: whose words go along, and what its silence becomes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import timedelta

import orjson
import pytest
from starlette.responses import Response

from services.subscriptions.invoicing_client import InvoicingAway, InvoicingClient, PricedBill
from shared.clock import utc_now
from shared.context import Cause, caused_by
from shared.errors import Conflict, DomainError, Forbidden, NotFound, TooManyRequests
from shared.events.subscriptions import Charge, SubscriptionRenewed
from shared.ids import new_id
from tests.subscriptions.stand_in import Asked, StandIn, served

HEADERS = {"Authorization": "Bearer of-the-caller", "Perennial-Account": str(new_id())}
INVOICE = {"total": {"amount": 1190, "currency": "EUR"}}
ANSWER = {"invoice": INVOICE, "credit_notes": []}


@pytest.fixture
def invoicing() -> StandIn:
    made = StandIn()
    made.answers(ANSWER)
    return made


@pytest.fixture
async def client(invoicing: StandIn) -> AsyncIterator[InvoicingClient]:
    async with served(invoicing) as url, InvoicingClient(url, timeout_seconds=0.5) as made:
        yield made


def renewal() -> SubscriptionRenewed:
    start = utc_now()
    end = start + timedelta(days=30)
    charge = Charge(
        id=new_id(),
        kind="recurring",
        description="Team",
        unit_amount="1000",
        amount=1000,
        currency="EUR",
        period_start=start,
        period_end=end,
        why={},
    )
    return SubscriptionRenewed(
        occurred_at=start,
        account_id=new_id(),
        sequence=7,
        subscription_id=new_id(),
        currency="EUR",
        plan_name="Team",
        price_id=new_id(),
        period_start=start,
        period_end=end,
        charges=(charge,),
    )


async def test_the_events_travel_as_they_will_and_so_do_the_callers_words(
    client: InvoicingClient, invoicing: StandIn
) -> None:
    first, second = renewal(), renewal()

    with caused_by(Cause("request-4711", f"00-{'a' * 32}-{'b' * 16}-01")):
        priced = await client.preview([first, second], HEADERS)

    (asked,) = invoicing.asked
    assert (asked.method, asked.path) == ("POST", "/v1/invoices/preview")
    for name, value in {**HEADERS, "X-Request-ID": "request-4711"}.items():
        assert asked.headers[name] == value
    assert list(orjson.loads(asked.body)) == ["events"]
    assert asked.events == [first, second]
    assert priced == PricedBill(invoice=INVOICE, credit_notes=[])


@pytest.mark.parametrize(
    ("status", "kind"), [(403, Forbidden), (404, NotFound), (409, Conflict), (429, TooManyRequests)]
)
async def test_what_invoicing_refuses_is_refused_in_its_words(
    client: InvoicingClient, invoicing: StandIn, status: int, kind: type[DomainError]
) -> None:
    invoicing.refuses(status, "its-own-code", "Its own sentence.")

    with pytest.raises(kind) as refusal:
        await client.preview([renewal()], HEADERS)

    if kind is not TooManyRequests:
        assert (refusal.value.code, refusal.value.detail) == ("its-own-code", "Its own sentence.")
        assert kind("another").code != "its-own-code"


@pytest.mark.parametrize("status", [405, 500, 502, 503])
async def test_an_answer_that_is_no_word_to_the_caller_is_an_outage(
    client: InvoicingClient, invoicing: StandIn, status: int
) -> None:
    invoicing.refuses(status, "internal-error", "Something went wrong.")

    with pytest.raises(InvoicingAway):
        await client.preview([renewal()], HEADERS)
    assert len(invoicing.asked) == 1


async def test_a_refusal_that_cannot_be_read_is_an_outage(
    client: InvoicingClient, invoicing: StandIn
) -> None:
    async def page(_: Asked) -> Response:
        return Response("<html>", 404)

    invoicing.answer = page

    with pytest.raises(InvoicingAway):
        await client.preview([renewal()], HEADERS)


async def test_nobody_there_and_nobody_known_are_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with InvoicingClient(f"http://127.0.0.1:{port}") as nobody:
        with pytest.raises(InvoicingAway):
            await nobody.preview([renewal()], HEADERS)
        assert await nobody.has_rate("standard", HEADERS) is None
    for nowhere in (None, ""):
        async with InvoicingClient(nowhere) as unknown:
            assert not unknown.is_known
            with pytest.raises(InvoicingAway):
                await unknown.preview([renewal()], HEADERS)
            assert await unknown.has_rate("standard", HEADERS) is None


async def test_silence_is_an_outage_after_a_while() -> None:
    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.wait_for(never.wait(), 10)
        writer.close()

    never = asyncio.Event()
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with InvoicingClient(url, timeout_seconds=0.2) as client:
            with pytest.raises(InvoicingAway):
                await client.preview([renewal()], HEADERS)
        never.set()


async def test_a_connection_that_was_closed_meanwhile_is_no_outage(invoicing: StandIn) -> None:
    async with served(invoicing) as url:
        asked = 0

        async def passing_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            if asked > 1:
                port = int(url.rpartition(":")[2])
                theirs, ours = await asyncio.open_connection("127.0.0.1", port)
                ours.write(await reader.readuntil(b"]}"))
                writer.write(await theirs.readuntil(b'"credit_notes":[]}'))
                await writer.drain()
                ours.close()
            writer.close()

        server = await asyncio.start_server(passing_on, "127.0.0.1", 0)
        async with server:
            between = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with InvoicingClient(between) as client:
                assert (await client.preview([renewal()], HEADERS)).invoice == INVOICE
    assert asked == 2


@pytest.mark.parametrize(
    ("ends", "is_there"),
    [([], False), ([None], True), (["2001-01-01"], False), (["2001-01-01", "9999-01-01"], True)],
)
async def test_a_category_has_a_rate_while_one_of_its_rates_has_not_ended(
    client: InvoicingClient, invoicing: StandIn, ends: list[str | None], *, is_there: bool
) -> None:
    invoicing.answers({"data": [{"valid_to": end} for end in ends], "next_cursor": None})

    assert await client.has_rate("books", HEADERS) is is_there
    (asked,) = invoicing.asked
    assert (asked.path, asked.query["category"]) == ("/v1/tax-rates", "books")
    assert asked.headers["Authorization"] == HEADERS["Authorization"]


async def test_who_may_not_read_rates_is_told_nothing_about_them(
    client: InvoicingClient, invoicing: StandIn
) -> None:
    invoicing.refuses(403, "forbidden", "This API key lacks the scope invoices:read.")

    assert await client.has_rate("books", HEADERS) is None
