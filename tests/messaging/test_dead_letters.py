"""Staff see what was given up, and replay, edit or discard it: once, and on the record."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aio_pika
import httpx
import pytest
from sqlalchemy import update

from shared.clock import utc_now
from shared.db import UnitOfWork
from shared.errors import Conflict, Invalid
from shared.ids import new_id
from shared.messaging.commands import COMMANDS
from shared.messaging.dead_letters import DeadLetter, DeadLetterNotFound, park
from shared.messaging.ops import ops_router
from shared.web import create_app
from tests.declared import DeclaredTransport
from tests.messaging.events import ThingChanged, a_change
from tests.messaging.probe import Probe, body_of, eventually, take_effect, unheard_of
from tests.tokens import TokenIssuer


class Mood:
    """Whether handlers of these tests refuse."""

    refuses = True


@pytest.fixture
async def mood(probe: Probe) -> Mood:
    """Two handlers, of which the ordered one refuses what has the number 13."""
    mood = Mood()

    @probe.consumers.handler(on=[ThingChanged], ordered="thing")
    async def follow(uow: UnitOfWork, event: ThingChanged) -> None:
        if mood.refuses and event.number == 13:
            raise Conflict("not thirteen")
        await take_effect(uow, event, str(event.number))

    @probe.consumers.handler(on=[ThingChanged])
    async def other(uow: UnitOfWork, event: ThingChanged) -> None:
        await take_effect(uow, event, "other")

    await probe.deploy()
    return mood


@pytest.fixture
async def http(probe: Probe, issuer: TokenIssuer) -> AsyncIterator[httpx.AsyncClient]:
    probe.runtime.verifier = issuer.verifier(probe.settings)
    app = create_app(probe.name, "a probe", probe.runtime, [ops_router(probe.name)], {})
    transport = DeclaredTransport(app)
    base = f"http://test/v1/ops/{probe.name}"
    async with httpx.AsyncClient(
        transport=transport, base_url=base, headers=issuer.of_staff("admin")
    ) as client:
        yield client


async def park_second(probe: Probe) -> tuple[UUID, str]:
    """A thing whose second event is parked, with a third behind it; and the letter's id."""
    thing = new_id()
    events = [a_change(thing, number, number=13 if number == 2 else 0) for number in (1, 2, 3)]
    await probe.deliver(*events, queue=f"{probe.name}.follow")
    await eventually(lambda: _letters(probe, 1))
    await eventually(probe.is_quiet)
    assert await sequences(probe, thing) == [1]
    (letter,) = await probe.letters()
    return thing, str(letter.id)


async def sequences(probe: Probe, thing: UUID) -> list[int]:
    return [row.sequence for row in await probe.effects() if row.thing_id == thing]


async def test_a_parked_event_holds_its_aggregate_back_until_it_is_replayed(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    async with probe.worker(relay=True):
        thing, letter = await park_second(probe)
        still = await http.post(f"/dead-letters/{letter}/replay")
        assert still.json()["status"] == "replayed"
        await eventually(lambda: _letters(probe, 2))  # refused again: a letter of its own

        mood.refuses = False
        (_, again) = await probe.letters()
        await http.post(f"/dead-letters/{again.id}/replay")
        await eventually(lambda: _has(probe, thing, [1, 2, 3]))
        await eventually(probe.is_quiet)

    assert {row.note for row in await probe.effects()} == {"0", "13"}  # the other heard nothing
    assert await probe.scalar("SELECT count(*) FROM {s}.early_events") == 0
    assert await probe.handled() == {f"{probe.name}.follow": 3}


async def test_a_discarded_event_is_passed_over(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    assert mood.refuses
    async with probe.worker(relay=True):
        thing, letter = await park_second(probe)
        answer = await http.post(f"/dead-letters/{letter}/discard")
        assert answer.json()["status"] == "discarded"
        await eventually(lambda: _has(probe, thing, [1, 3]))
        await eventually(probe.is_quiet)

        await probe.deliver(a_change(thing, 4), queue=f"{probe.name}.follow")
        await eventually(lambda: _has(probe, thing, [1, 3, 4]))


async def test_what_an_earlier_release_parked_as_unknown_is_passed_over_when_it_is_replayed(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    assert mood.refuses
    thing, queue = new_id(), f"{probe.name}.follow"
    body, _ = unheard_of(a_change(thing, 1))
    letter = DeadLetter.of(
        queue,
        body,
        headers={},
        reason="unknown-event",
        cause="UnknownEvent in read",
        error="UnknownEvent: this release knows no event thing.unheard_of",
        attempts=1,
    )
    async with probe.runtime.begin() as uow:
        assert await park(uow, letter)

    async with probe.worker(relay=True):
        await probe.deliver(a_change(thing, 2), a_change(thing, 3), queue=queue)
        await eventually(probe.is_quiet)
        assert await sequences(probe, thing) == []

        answer = await http.post("/dead-letters/replay", json={"reason": "unknown-event"})
        assert answer.json() == {"dry_run": True, "count": 1}
        await http.post("/dead-letters/replay", json={"reason": "unknown-event", "dry_run": False})
        await eventually(lambda: _has(probe, thing, [2, 3]))

    assert [row.status for row in await probe.letters()] == ["replayed"]
    assert await probe.scalar("SELECT count(*) FROM {s}.early_events") == 0


async def test_an_edited_copy_takes_the_place_of_the_parked_event(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    assert mood.refuses
    async with probe.worker(relay=True):
        thing, letter = await park_second(probe)
        shown = (await http.get(f"/dead-letters/{letter}")).json()
        old = shown["body"]
        data = {**old["data"], "number": 12}

        wrong = await http.post(
            f"/dead-letters/{letter}/edit-replay", json={"data": {**data, "number": "many"}}
        )
        assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid")
        edited = await http.post(f"/dead-letters/{letter}/edit-replay", json={"data": data})
        assert edited.json()["status"] == "edited"
        await eventually(lambda: _has(probe, thing, [1, 2, 3]))
        await eventually(probe.is_quiet)

    second = next(row for row in await probe.effects() if row.sequence == 2)
    assert second.note == "12"
    assert str(second.event_id) == edited.json()["replaced_by"] != old["id"]
    ((body,),) = await probe.rows("SELECT body FROM {s}.outbox")
    assert f'"causationid":"{old["id"]}"'.encode() in bytes(body)


async def test_two_clicks_at_once_have_one_effect(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    async with probe.worker(relay=True):
        thing, letter = await park_second(probe)
        mood.refuses = False
        answers = await asyncio.gather(
            *(http.post(f"/dead-letters/{letter}/{verb}") for verb in ("replay",) * 4)
        )
        await eventually(lambda: _has(probe, thing, [1, 2, 3]))
        await eventually(probe.is_quiet)

    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    assert {answer.json().get("code") for answer in answers} == {None, "dead-letter-closed"}
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 1
    assert await probe.scalar("SELECT count(*) FROM {s}.audit_log") == 1


async def test_different_decisions_at_once_have_one_effect(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    assert mood.refuses
    async with probe.worker():
        _, letter = await park_second(probe)
    shown = (await http.get(f"/dead-letters/{letter}")).json()
    data = {**shown["body"]["data"], "number": 12}
    answers = await asyncio.gather(
        http.post(f"/dead-letters/{letter}/replay"),
        http.post(f"/dead-letters/{letter}/edit-replay", json={"data": data}),
        http.post(f"/dead-letters/{letter}/discard"),
        http.post("/dead-letters/replay", json={"dry_run": False}),
        http.post("/dead-letters/discard", json={"dry_run": False}),
    )

    one_by_one, many = answers[:3], answers[3:]
    effects = [answer for answer in one_by_one if answer.status_code == 200]
    assert {answer.status_code for answer in one_by_one} <= {200, 409}
    assert len(effects) + sum(answer.json()["count"] for answer in many) == 1
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 1
    assert await probe.scalar("SELECT count(*) FROM {s}.audit_log") == 1


async def test_letters_are_listed_grouped_and_shown(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    assert mood.refuses
    async with probe.worker():
        for _ in range(3):
            await probe.deliver(a_change(number=13), queue=f"{probe.name}.follow")
        await eventually(lambda: _letters(probe, 3))

    listed = (await http.get("/dead-letters", params={"limit": 2})).json()
    assert len(listed["data"]) == 2
    rest = await http.get("/dead-letters", params={"limit": 2, "cursor": listed["next_cursor"]})
    assert len(rest.json()["data"]) == 1
    none = await http.get("/dead-letters", params={"event_name": "thing.made"})
    assert none.json()["data"] == []

    (cause,) = (await http.get("/dead-letters/causes")).json()["data"]
    assert cause["count"] == 3
    assert cause["reason"] == "refused:conflict"
    assert cause["cause"] == "Conflict in follow"

    shown = (await http.get(f"/dead-letters/{listed['data'][0]['id']}")).json()
    assert shown["body"]["type"] == "thing.changed"
    assert "not thirteen" in shown["traceback"]

    wanted = {name: cause[name] for name in ("consumer", "event_name", "reason", "cause")}
    counted = await http.post("/dead-letters/replay", json=wanted)
    assert counted.json() == {"dry_run": True, "count": 3}
    other = await http.post("/dead-letters/discard", json={"cause": "another", "dry_run": False})
    assert other.json() == {"dry_run": False, "count": 0}
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 0
    twice = await asyncio.gather(
        *(http.post("/dead-letters/replay", json={**wanted, "dry_run": False}) for _ in range(2))
    )
    assert sum(answer.json()["count"] for answer in twice) == 3
    assert await probe.scalar("SELECT count(*) FROM {s}.outbox") == 3
    assert await probe.scalar("SELECT count(*) FROM {s}.audit_log") == 3
    missing = await http.get(f"/dead-letters/{new_id()}")
    assert (missing.status_code, missing.json()["code"]) == (404, "dead-letter-not-found")


async def test_the_outbox_is_shown_and_sent_again_over_http(
    probe: Probe, mood: Mood, http: httpx.AsyncClient
) -> None:
    assert mood.refuses
    await probe.emit(a_change(), a_change())
    shown = (await http.get("/outbox")).json()
    assert (shown["unpublished"], shown["refused"]) == (2, 0)

    async with probe.worker(relay=True):
        await eventually(probe.is_quiet)
    wanted = {"since": "2026-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z"}
    counted = (await http.post("/outbox/replay", json=wanted)).json()
    assert counted == {"dry_run": True, "count": 2, "by_type": {"thing.changed": 2}}
    await http.post("/outbox/replay", json={**wanted, "dry_run": False})
    assert (await http.get("/outbox")).json()["unpublished"] == 2


async def test_only_staff_may_look_and_only_admins_may_act(
    http: httpx.AsyncClient, issuer: TokenIssuer
) -> None:
    customer = issuer.of_account(new_id())
    support = issuer.of_staff("support")
    letter = new_id()
    for path in ("/outbox", "/dead-letters", "/dead-letters/causes", f"/dead-letters/{letter}"):
        assert (await http.get(path, headers=customer)).status_code == 403
        assert (await http.get(path, headers=support)).status_code in {200, 404}
    for path, body in (
        ("/outbox/replay", {"since": "2026-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z"}),
        ("/dead-letters/replay", {}),
        ("/dead-letters/discard", {}),
        (f"/dead-letters/{letter}/replay", None),
        (f"/dead-letters/{letter}/edit-replay", {"data": {}}),
        (f"/dead-letters/{letter}/discard", None),
    ):
        for who in (customer, support):
            answer = await http.post(path, json=body, headers=who)
            assert answer.status_code == 403, path
    assert (await http.get("/outbox", headers={"Authorization": ""})).status_code == 401


async def test_the_command_line_does_the_same(
    probe: Probe, mood: Mood, capsys: pytest.CaptureFixture[str]
) -> None:
    letters: Any = COMMANDS["dead-letters"]
    async with probe.worker(relay=True):
        thing, letter = await park_second(probe)
        await letters(probe.runtime, ["list"])
        await letters(probe.runtime, ["causes"])
        await letters(probe.runtime, ["show", letter])
        out = capsys.readouterr().out
        assert letter in out
        assert "Conflict in follow" in out
        assert "Traceback" in out

        mood.refuses = False
        await letters(probe.runtime, ["replay", letter])
        await eventually(lambda: _has(probe, thing, [1, 2, 3]))
    ((actor,),) = await probe.rows("SELECT actor FROM {s}.audit_log")
    assert actor == "command line"


async def test_the_command_line_decides_about_many(
    probe: Probe, mood: Mood, capsys: pytest.CaptureFixture[str]
) -> None:
    letters: Any = COMMANDS["dead-letters"]
    meant = ["--cause", "Conflict in follow", "--consumer", f"{probe.name}.follow"]
    async with probe.worker(relay=True):
        for _ in range(3):
            await probe.deliver(a_change(number=13), queue=f"{probe.name}.follow")
        await eventually(lambda: _letters(probe, 3))
        mood.refuses = False
        capsys.readouterr()

        await letters(probe.runtime, ["replay-all", *meant])
        await letters(probe.runtime, ["discard-all", "--cause", "another", "--yes"])
        assert capsys.readouterr().out.splitlines() == [
            "3 dead letters: go to their handlers again with --yes.",
            "0 dead letters: discarded.",
        ]
        await letters(probe.runtime, ["replay-all", *meant, "--yes"])
        await eventually(lambda: _done(probe, 3))
        await eventually(probe.is_quiet)
    capsys.readouterr()
    await letters(probe.runtime, ["list", "--status", "replayed"])
    assert len(capsys.readouterr().out.splitlines()) == 3
    await COMMANDS["outbox"](probe.runtime, [])
    assert capsys.readouterr().out == "0 events wait to be published.\n"
    await probe.emit(a_change())
    async with probe.runtime.begin() as uow:
        outbox = uow.platform.outbox
        unsent = outbox.c.sent_at.is_(None)
        await uow.session.execute(
            update(outbox).where(unsent).values(refused_at=utc_now(), error="returned: NO_ROUTE")
        )
    await probe.emit(a_change())
    await COMMANDS["outbox"](probe.runtime, [])
    waiting, refused = capsys.readouterr().out.splitlines()
    assert waiting.startswith("1 events wait to be published, the oldest since ")
    assert refused.startswith("1 thing.changed refused since ")
    assert refused.endswith(": returned: NO_ROUTE")


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        ("dead-letters", ["replay", str(UUID(int=1)), "--data", "{"], "it is no JSON"),
        ("dead-letters", ["replay", str(UUID(int=1)), "--data", "[]"], "it is no JSON object"),
        ("dead-letters", ["show", "this"], "invalid UUID value"),
        ("replay", ["--since", "yesterday"], "'yesterday' is no moment"),
    ],
)
async def test_a_bad_word_is_refused_in_one_sentence(
    probe: Probe, verb: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        await COMMANDS[verb](probe.runtime, words)

    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


async def test_a_range_that_ends_before_it_begins_is_refused(
    probe: Probe, http: httpx.AsyncClient
) -> None:
    early, late = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    with pytest.raises(Invalid, match="ends before it begins"):
        await COMMANDS["replay"](probe.runtime, ["--since", late, "--until", early])
    answer = await http.post("/outbox/replay", json={"since": late, "until": early})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_a_dead_letter_that_is_not_there(probe: Probe) -> None:
    with pytest.raises(DeadLetterNotFound):
        await COMMANDS["dead-letters"](probe.runtime, ["discard", str(new_id())])


async def test_what_the_broker_gives_up_becomes_a_letter(probe: Probe, mood: Mood) -> None:
    assert mood.refuses
    event = a_change()
    async with probe.worker():
        await probe.channel.default_exchange.publish(
            _dead(event, f"{probe.name}.other"), routing_key=f"{probe.name}.dead"
        )
        await eventually(lambda: _letters(probe, 1))

    (letter,) = await probe.letters()
    assert (letter.consumer, letter.event_id) == (f"{probe.name}.other", event.id)
    assert letter.reason == "broker:delivery_limit"


def _dead(event: ThingChanged, queue: str) -> Any:
    return aio_pika.Message(
        body_of(event),
        headers={"x-first-death-queue": queue, "x-first-death-reason": "delivery_limit"},
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )


async def _letters(probe: Probe, number: int) -> bool:
    return len(await probe.letters()) == number


async def _done(probe: Probe, number: int) -> bool:
    return len(await probe.effects()) == number


async def _has(probe: Probe, thing: UUID, expected: list[int]) -> bool:
    return await sequences(probe, thing) == expected
