"""What every provider must do; each built-in one goes through the same cases."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from services.payments.providers.base import (
    ActionRequired,
    Authorized,
    Canceled,
    Charged,
    ChargeRequest,
    DeclineClass,
    Declined,
    ForgedWebhook,
    MethodRefused,
    NeverHeard,
    NoticeAbout,
    Refunded,
    RefundRefused,
    RefundRequest,
    Uncertain,
)
from services.payments.providers.stripe import StripeProvider, StripeSettings
from shared.errors import Unavailable
from shared.ids import new_id
from shared.money import Money
from tests.payments.candidates import (
    TEN,
    Candidate,
    named_elsewhere,
    stripe_itself,
    the_sandbox,
)
from tests.payments.servers import Sandbox, sandbox_process
from tests.payments.stripe_shim import stripe_like
from tests.tools import tool_environment

pytestmark = [
    pytest.mark.servers,
    # The Stripe SDK hands httpx a body in a way that httpx has come to dislike.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:httpx"),
]


@pytest.fixture(scope="module")
def stripe_url() -> Iterator[str]:
    with stripe_like(tool_environment("localstripe") / "bin" / "python") as url:
        yield url


@pytest.fixture(scope="module")
def quick_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One that loses answers at once, instead of letting callers wait for them."""
    folder: Path = tmp_path_factory.mktemp("conformance")
    with sandbox_process(folder, hang_seconds=0, webhook_url="") as sandbox:
        yield sandbox


@pytest.fixture(params=["sandbox", "stripe", *(["elsewhere"] if named_elsewhere() else [])])
async def candidate(request: pytest.FixtureRequest) -> AsyncIterator[Candidate]:
    opened: AbstractAsyncContextManager[Candidate]
    if request.param == "sandbox":
        opened = the_sandbox(request.getfixturevalue("quick_sandbox"))
    elif request.param == "stripe":
        opened = stripe_itself(request.getfixturevalue("stripe_url"))
    else:
        elsewhere = named_elsewhere()
        assert elsewhere is not None
        opened = elsewhere()
    async with opened as made:
        yield made


def now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251  (a test's own clock)


async def test_a_charge_takes_the_money_once_and_is_found_by_our_key(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    first = await candidate.provider.charge(request)
    again = await candidate.provider.charge(request)

    assert isinstance(first, Charged)
    assert first.amount == TEN
    assert 0 <= first.fee < TEN.amount
    assert again == first
    found = await candidate.provider.look_up(key=request.key, reference=first.reference)
    assert found == first


async def test_the_same_key_with_other_parameters_takes_nothing(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    await candidate.provider.charge(request)
    other = ChargeRequest(key=request.key, amount=Money(5, "EUR"), method=request.method)

    assert not isinstance(await candidate.provider.charge(other), Charged)


async def test_many_at_once_under_one_key_are_one_charge(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    outcomes = await asyncio.gather(*(candidate.provider.charge(request) for _ in range(10)))

    charged = {outcome.reference for outcome in outcomes if isinstance(outcome, Charged)}
    assert len(charged) == 1
    assert all(isinstance(outcome, Charged | Uncertain) for outcome in outcomes)


@pytest.mark.parametrize("decline_class", list(DeclineClass))
async def test_declines_are_classified(candidate: Candidate, decline_class: DeclineClass) -> None:
    request = await candidate.request(decline_class.value)
    outcome = await candidate.provider.charge(request)

    assert isinstance(outcome, Declined)
    assert outcome.decline_class is decline_class
    found = await candidate.provider.look_up(key=request.key, reference=outcome.reference)
    assert isinstance(found, Declined)


async def test_an_unknown_token_is_refused(candidate: Candidate) -> None:
    with pytest.raises(MethodRefused):
        await candidate.provider.attach(key="k", token="tok_nonsense", account="a")


async def test_a_charge_may_wait_for_the_payer_and_be_given_up(candidate: Candidate) -> None:
    request = await candidate.request("action")
    waiting = await candidate.provider.charge(request)
    assert isinstance(waiting, ActionRequired)

    found = await candidate.provider.look_up(key=request.key, reference=waiting.reference)
    assert isinstance(found, ActionRequired)
    gone = await candidate.provider.cancel(key=f"{request.key}:cancel", charge=waiting.reference)
    assert isinstance(gone, Canceled)
    found = await candidate.provider.look_up(key=request.key, reference=waiting.reference)
    assert isinstance(found, Canceled)


async def test_giving_up_a_charge_that_took_the_money_says_so(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    charged = await candidate.provider.charge(request)
    assert isinstance(charged, Charged)

    late = await candidate.provider.cancel(key=f"{request.key}:c", charge=charged.reference)
    assert isinstance(late, Charged)


async def test_money_may_be_reserved_and_taken_in_part(candidate: Candidate) -> None:
    request = await candidate.request("ok", capture=False)
    held = await candidate.provider.charge(request)
    assert isinstance(held, Authorized)

    taken = await candidate.provider.capture(
        key=f"{request.key}:capture", charge=held.reference, amount=Money(400, "EUR")
    )
    assert isinstance(taken, Charged)
    assert taken.amount == Money(400, "EUR")


async def test_refunds_are_sent_once_and_never_above_the_charge(candidate: Candidate) -> None:
    charged = await candidate.provider.charge(await candidate.request("ok"))
    assert isinstance(charged, Charged)
    part = RefundRequest(key=str(new_id()), charge=charged.reference, amount=Money(600, "EUR"))

    first = await candidate.provider.refund(part)
    assert isinstance(first, Refunded)
    assert await candidate.provider.refund(part) == first
    found = await candidate.provider.look_up_refund(key=part.key, charge=charged.reference)
    assert found == first
    over = RefundRequest(key=str(new_id()), charge=charged.reference, amount=Money(401, "EUR"))
    assert isinstance(await candidate.provider.refund(over), RefundRefused)


async def test_what_it_never_heard_of_it_says_so(candidate: Candidate) -> None:
    charged = await candidate.provider.charge(await candidate.request("ok"))
    assert isinstance(charged, Charged)

    assert isinstance(await candidate.provider.look_up(key=str(new_id())), NeverHeard)
    refund = await candidate.provider.look_up_refund(key=str(new_id()), charge=charged.reference)
    assert isinstance(refund, NeverHeard)


async def test_a_payer_who_confirms_pays(candidate: Candidate) -> None:
    request = await candidate.request("action")
    waiting = await candidate.provider.charge(request)
    assert isinstance(waiting, ActionRequired)
    assert waiting.url or waiting.client_secret
    await candidate.act("confirm", waiting.reference)

    found = await candidate.provider.look_up(key=request.key, reference=waiting.reference)
    assert isinstance(found, Charged)
    assert found.amount == TEN


async def test_a_card_may_have_to_be_confirmed_when_it_is_saved(candidate: Candidate) -> None:
    assert (await candidate.attach("ok")).action is None
    waiting = await candidate.attach("confirm_first")

    assert waiting.action is not None
    assert waiting.action.url or waiting.action.client_secret
    assert "secret" not in repr(waiting)


async def test_after_a_decline_nobody_can_pay_the_same_charge(candidate: Candidate) -> None:
    """Another attempt follows, and two could take money."""
    request = await candidate.request("retry_later")
    declined = await candidate.provider.charge(request)
    assert isinstance(declined, Declined)
    assert declined.reference

    found = await candidate.provider.look_up(key=request.key, reference=declined.reference)
    assert isinstance(found, Declined)
    assert found.code == declined.code
    gone = await candidate.provider.cancel(key=f"{request.key}:c", charge=declined.reference)
    assert isinstance(gone, Canceled | Declined)


async def test_a_refund_that_comes_back_is_refused_when_it_is_looked_up(
    candidate: Candidate,
) -> None:
    charged = await candidate.provider.charge(await candidate.request("ok"))
    assert isinstance(charged, Charged)
    part = RefundRequest(key=str(new_id()), charge=charged.reference, amount=Money(600, "EUR"))
    sent = await candidate.provider.refund(part)
    assert isinstance(sent, Refunded)
    await candidate.act("fail_refund", sent.reference)

    found = await candidate.provider.look_up_refund(key=part.key, charge=charged.reference)
    assert isinstance(found, RefundRefused)
    books = {line.reference async for line in candidate.provider.movements()}
    assert sent.reference not in books


@pytest.mark.parametrize(("act", "end"), [("win", "won"), ("lose", "lost")])
async def test_a_dispute_is_shown_from_its_opening_to_its_end(
    candidate: Candidate, act: str, end: str
) -> None:
    request = await candidate.request("ok")
    charged = await candidate.provider.charge(request)
    assert isinstance(charged, Charged)
    reference = await candidate.act("dispute", charged.reference)
    opened = await candidate.provider.look_up_dispute(reference)
    assert opened is not None
    assert (opened.status, opened.key, opened.amount) == ("open", request.key, TEN)
    assert opened.charge == charged.reference
    assert opened.fee > 0

    await candidate.act(act, reference)
    closed = await candidate.provider.look_up_dispute(reference)
    assert closed is not None
    assert closed.status == end
    books = {line.reference: line async for line in candidate.provider.movements()}
    assert (books[reference].kind, books[reference].status) == ("dispute", end)
    assert books[reference].key == request.key
    assert await candidate.provider.look_up_dispute("dp_of_nobody") is None


async def test_a_payout_is_shown_and_says_when_it_came_back(candidate: Candidate) -> None:
    # More than others of this run may have taken back from the same provider.
    await candidate.provider.charge(await candidate.request("ok", Money(900_000, TEN.currency)))
    reference = await candidate.act("pay_out")
    paid = await candidate.provider.look_up_payout(reference)
    assert paid is not None
    assert paid.amount.amount > 0
    assert not paid.failed
    books = {line.reference: line async for line in candidate.provider.movements()}
    assert (books[reference].kind, books[reference].amount) == ("payout", paid.amount)

    await candidate.act("fail_payout", reference)
    back = await candidate.provider.look_up_payout(reference)
    assert back is not None
    assert back.failed
    assert reference not in {line.reference async for line in candidate.provider.movements()}
    assert await candidate.provider.look_up_payout("po_of_nobody") is None


async def test_a_server_that_never_answers_is_given_up_and_leaves_everything_open(
    candidate: Candidate,
) -> None:
    if candidate.against is None:
        pytest.skip(f"{candidate.provider.name} cannot be pointed elsewhere")
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and that is all
    provider = candidate.against(f"http://127.0.0.1:{silent.getsockname()[1]}")
    request = ChargeRequest(key=str(new_id()), amount=TEN, method="pm_1", customer="cus_1")
    refund = RefundRequest(key=str(new_id()), charge="ch_1", amount=TEN)

    assert isinstance(await provider.charge(request), Uncertain)
    assert isinstance(await provider.look_up(key=request.key), Uncertain)
    assert isinstance(await provider.cancel(key="c", charge="ch_1"), Uncertain)
    assert isinstance(await provider.refund(refund), Uncertain)
    assert isinstance(await provider.look_up_refund(key="r", charge="ch_1"), Uncertain)
    for question in (provider.look_up_dispute("dp_1"), provider.look_up_payout("po_1")):
        with pytest.raises(Unavailable):
            await question
    await provider.close()
    silent.close()


async def test_a_time_out_before_the_charge_took_nothing_and_the_same_key_works(
    candidate: Candidate,
) -> None:
    request = await candidate.request("timeout_before")
    assert isinstance(await candidate.provider.charge(request), Uncertain)
    assert isinstance(await candidate.provider.look_up(key=request.key), NeverHeard)

    assert isinstance(await candidate.provider.charge(request), Charged)


async def test_a_time_out_after_the_charge_is_found_by_our_key(candidate: Candidate) -> None:
    request = await candidate.request("timeout_after")
    assert isinstance(await candidate.provider.charge(request), Uncertain)

    found = await candidate.provider.look_up(key=request.key)
    assert isinstance(found, Charged)
    assert await candidate.provider.charge(request) == found


async def test_currencies_and_limits_are_declared(candidate: Candidate) -> None:
    assert candidate.provider.limits("XXX") is None
    limits = candidate.provider.limits("EUR")
    assert limits is not None
    assert limits.minimum <= 1000 <= limits.maximum
    assert candidate.provider.limits("JPY") is not None


async def test_its_books_hold_what_it_charged_and_sent_back(candidate: Candidate) -> None:
    request = await candidate.request("ok")
    charged = await candidate.provider.charge(request)
    assert isinstance(charged, Charged)
    refund = RefundRequest(key=str(new_id()), charge=charged.reference, amount=Money(1, "EUR"))
    await candidate.provider.refund(refund)

    since = now() - timedelta(minutes=1)
    books = {line.key: line async for line in candidate.provider.movements(since=since)}
    assert books[request.key].amount == TEN
    assert books[request.key].fee == charged.fee
    assert books[refund.key].kind == "refund"


ABOUT: list[NoticeAbout] = ["charge", "refund", "dispute", "payout", "method", "other"]


@pytest.mark.parametrize("about", ABOUT)
async def test_a_true_webhook_is_taken_and_read(candidate: Candidate, about: NoticeAbout) -> None:
    key = str(new_id())
    body = candidate.webhook("evt_1", about, "thing_1", key)
    for secret in candidate.secrets:  # while one is being replaced, both are true
        headers = candidate.sign(body, now(), secret)
        candidate.provider.verify(headers=headers, body=body, now=now())
    notice = candidate.provider.read(body)

    assert (notice.event_id, notice.about, notice.reference) == ("evt_1", about, "thing_1")
    assert about not in {"charge", "refund"} or notice.key == key
    assert about != "method" or (notice.method and notice.method.exp_year == 2041)


async def test_a_forged_webhook_is_refused(candidate: Candidate) -> None:
    body, at = candidate.webhook("evt_1", "charge", "ch_1", "k"), now()
    true = candidate.sign(body, at, candidate.secrets[0])
    forged = [
        ({}, body),
        (true, body + b" "),
        (true, body[:-1]),
        (candidate.sign(body, at, "whsec_guessed"), body),
        (candidate.sign(body, at - timedelta(seconds=301), candidate.secrets[0]), body),
        (candidate.sign(body, at + timedelta(seconds=3600), candidate.secrets[0]), body),
        (dict.fromkeys(true, ""), body),
        (dict.fromkeys(true, "t=99999999999999999999,v1=00"), body),
        (dict.fromkeys(true, "t=é,v1=é"), body),
    ]
    for headers, sent in forged:
        with pytest.raises(ForgedWebhook):
            candidate.provider.verify(headers=headers, body=sent, now=at)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b'{"id": "e", "type": "charge.x"}'])
async def test_what_is_signed_and_no_event_is_refused(candidate: Candidate, body: bytes) -> None:
    with pytest.raises(ForgedWebhook):
        candidate.provider.read(body)


async def test_copies_say_the_same_and_a_late_one_leads_to_what_is_true_now(
    candidate: Candidate,
) -> None:
    request = await candidate.request("action")
    waiting = await candidate.provider.charge(request)
    assert isinstance(waiting, ActionRequired)
    told = candidate.webhook("evt_early", "charge", waiting.reference, request.key)
    await candidate.provider.cancel(key=f"{request.key}:cancel", charge=waiting.reference)

    late, copy = candidate.provider.read(told), candidate.provider.read(told)
    assert late == copy
    assert late.key == request.key
    found = await candidate.provider.look_up(key=late.key, reference=late.reference)
    assert isinstance(found, Canceled)


async def test_with_an_address_to_return_to_a_payer_gets_a_link(stripe_url: str) -> None:
    provider = StripeProvider(
        StripeSettings(
            api_key=SecretStr("sk_test_1"),
            webhook_secret=SecretStr("whsec_test"),
            url=stripe_url,
            timeout_seconds=20,
            return_url="https://shop.example/back",
        )
    )
    method = await provider.attach(key=f"a:{new_id()}", token="pm_shim_action", account="a")
    assert method.action is not None
    assert method.action.url
    request = ChargeRequest(
        key=str(new_id()),
        amount=TEN,
        method=method.reference,
        customer=method.customer,
        customer_present=True,
    )
    waiting = await provider.charge(request)
    assert isinstance(waiting, ActionRequired)
    assert waiting.url
    await provider.close()


async def test_a_webhook_that_localstripe_signed_and_sent_is_taken(stripe_url: str) -> None:
    bodies: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:]
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head)
        }
        bodies.put_nowait((headers, await reader.readexactly(int(headers["content-length"]))))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with stripe_itself(stripe_url) as candidate, httpx.AsyncClient() as http, server:
        told = {"url": address, "secret": candidate.secrets[0]}
        answer = await http.post(f"{stripe_url}/_config/webhooks/perennial", json=told)
        assert answer.is_success
        request = await candidate.request("ok")
        assert isinstance(await candidate.provider.charge(request), Charged)
        async with asyncio.timeout(20):
            while True:
                headers, body = await bodies.get()
                candidate.provider.verify(headers=headers, body=body, now=now())
                notice = candidate.provider.read(body)
                if notice.about == "charge" and notice.key == request.key:
                    break
    assert notice.kind == "payment_intent.succeeded"
