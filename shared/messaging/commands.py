"""The message path's verbs of `python -m services.<name>`: outbox, replay and dead-letters."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from shared.clock import utc_now
from shared.db import Scope, UnitOfWork
from shared.messaging import dead_letters
from shared.messaging import replay as replays
from shared.runtime import Runtime

#: A long range is sent in transactions of so much of it.
SLICE = timedelta(hours=1)
#: Dead letters that are decided in one transaction.
AT_ONCE = 500
OPERATOR_AT_THE_KEYBOARD = Scope(account_id=None, actor="command line")

STATUSES = ("parked", "replayed", "edited", "discarded", "all")

Command = Callable[[Runtime[Any, Any], list[str]], Awaitable[int]]


async def outbox(runtime: Runtime[Any, Any], arguments: list[str]) -> int:
    """Say what waits to be published, and what the broker refused."""
    argparse.ArgumentParser(
        prog=f"python -m services.{runtime.database.platform.schema} outbox",
        description="What waits to be published, and what the broker refused.",
        allow_abbrev=False,
    ).parse_args(arguments)
    async with runtime.begin(OPERATOR_AT_THE_KEYBOARD) as uow:
        rows = uow.platform.outbox.c
        waiting = (
            await uow.session.execute(
                select(func.count(), func.min(rows.created_at)).where(
                    rows.sent_at.is_(None), rows.refused_at.is_(None)
                )
            )
        ).one()
        refused = await uow.session.execute(
            select(rows.routing_key, rows.error, func.count(), func.min(rows.created_at))
            .where(rows.refused_at.is_not(None))
            .group_by(rows.routing_key, rows.error)
            .order_by(rows.routing_key)
        )
        since = f", the oldest since {waiting[1]:%Y-%m-%d %H:%M:%S}" if waiting[0] else ""
        _say(f"{waiting[0]} events wait to be published{since}.")
        for name, error, number, first in refused:
            _say(f"{number} {name} refused since {first:%Y-%m-%d %H:%M:%S}: {error}")
    return 0


async def replay(runtime: Runtime[Any, Any], arguments: list[str]) -> int:
    """Send a range of the outbox again; without --yes it only counts."""
    asked = _replay_parser(runtime.database.platform.schema).parse_args(arguments)
    whole = replays.Selection(
        since=asked.since,
        until=asked.until or utc_now(),
        types=asked.type,
        account_id=asked.account,
        aggregate_id=asked.aggregate,
        consumer=asked.consumer,
    )
    total = 0
    for start, end in _slices(whole.since, whole.until):
        selection = replace(whole, since=start, until=end)
        async with runtime.begin(OPERATOR_AT_THE_KEYBOARD) as uow:
            if asked.yes:
                total += await replays.replay(uow, selection)
            else:
                total += sum((await replays.count(uow, selection)).values())
    if asked.yes:
        _say(f"{total} events will be sent again.")
    else:
        _say(f"{total} events would be sent again. Add --yes to send them.")
    return 0


async def letters(runtime: Runtime[Any, Any], arguments: list[str]) -> int:
    """List, count, show, replay, edit or discard dead letters."""
    asked = _letters_parser(runtime.database.platform.schema).parse_args(arguments)
    if asked.action in {"replay-all", "discard-all"}:
        return await _decide_all(runtime, asked)
    async with runtime.begin(OPERATOR_AT_THE_KEYBOARD) as uow:
        await _LETTER_VERBS[asked.action](uow, asked)
    return 0


COMMANDS: Mapping[str, Command] = {"outbox": outbox, "replay": replay, "dead-letters": letters}


def _meant(asked: argparse.Namespace) -> dead_letters.Filter:
    return dead_letters.Filter(
        status=None if asked.status == "all" else asked.status,
        consumer=asked.consumer,
        event_name=asked.type,
        reason=asked.reason,
        cause=asked.cause,
        account_id=asked.account,
    )


async def _decide_all(runtime: Runtime[Any, Any], asked: argparse.Namespace) -> int:
    """All that are meant, in transactions of a few; without --yes they are only counted."""
    wanted = _meant(asked)
    is_replay = asked.action == "replay-all"
    done = "go to their handlers again" if is_replay else "discarded"
    if not asked.yes:
        async with runtime.begin(OPERATOR_AT_THE_KEYBOARD) as uow:
            number = await dead_letters.count_open(uow, wanted)
        _say(f"{number} dead letters: {done} with --yes.")
        return 0
    total = 0
    while True:
        async with runtime.begin(OPERATOR_AT_THE_KEYBOARD) as uow:
            found = await dead_letters.take_many(uow, wanted, most=AT_ONCE)
            for letter_id in found:
                if is_replay:
                    await dead_letters.replay(uow, letter_id)
                else:
                    await dead_letters.discard(uow, letter_id)
        total += len(found)
        if len(found) < AT_ONCE:
            _say(f"{total} dead letters: {done}.")
            return 0


async def _list(uow: UnitOfWork, asked: argparse.Namespace) -> None:
    table = dead_letters.table(uow)
    statement = _meant(asked).narrow(uow, select(table)).order_by(table.c.id).limit(asked.limit)
    for row in await uow.session.execute(statement):
        _say(
            f"{row.id}  {row.consumer}  {row.event_name or '?'}  {row.reason}  "
            f"{row.attempts} tries, last {row.last_failed_at:%Y-%m-%d %H:%M:%S}  {row.error}"
        )


async def _causes(uow: UnitOfWork, _asked: argparse.Namespace) -> None:
    for row in await dead_letters.by_cause(uow):
        _say(
            f"{row['count']:>6}  {row['consumer']}  {row['event_name'] or '?'}  {row['reason']}"
            f"  {row['cause']}"
        )


async def _show(uow: UnitOfWork, asked: argparse.Namespace) -> None:
    row = await dead_letters.get(uow, asked.id)
    shown = {**row._mapping, "body": bytes(row.body).decode("utf-8", "replace")}  # noqa: SLF001
    trace = shown.pop("traceback")
    _say(json.dumps(shown, indent=2, default=str))
    _say(trace or "")


async def _replay(uow: UnitOfWork, asked: argparse.Namespace) -> None:
    event_id = await dead_letters.replay(uow, asked.id, data=asked.data)
    _say(f"Event {event_id} goes to its handler again.")


async def _discard(uow: UnitOfWork, asked: argparse.Namespace) -> None:
    await dead_letters.discard(uow, asked.id)
    _say("Discarded.")


_LETTER_VERBS: Mapping[str, Callable[[UnitOfWork, argparse.Namespace], Awaitable[None]]] = {
    "list": _list,
    "causes": _causes,
    "show": _show,
    "replay": _replay,
    "discard": _discard,
}


def _replay_parser(service: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service} replay",
        description="Send published events again. Handlers that took one drop the repeat.",
        allow_abbrev=False,
    )
    parser.add_argument("--since", type=_moment, required=True, help="2026-11-21T10:00:00Z")
    parser.add_argument("--until", type=_moment, help="now, unless given")
    parser.add_argument("--type", action="append", default=[], help="an event's name; repeatable")
    parser.add_argument("--account", type=UUID)
    parser.add_argument("--aggregate", type=UUID)
    parser.add_argument("--consumer", help="one handler's queue; the others pass over the repeats")
    parser.add_argument("--yes", action="store_true", help="send, instead of counting")
    return parser


def _letters_parser(service: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service} dead-letters",
        description="What handlers gave up on, and what to do about it.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="letters, the oldest first")
    listing.add_argument("--status", choices=STATUSES, default="parked")
    listing.add_argument("--limit", type=int, default=100)
    actions.add_parser("causes", help="open letters, counted by cause")
    every = [listing]
    for name, text in (
        ("replay-all", "send all that are meant to their handlers again"),
        ("discard-all", "give all that are meant up"),
    ):
        action = actions.add_parser(name, help=f"{text}; without --yes it counts them")
        action.add_argument("--yes", action="store_true", help="do it, instead of counting")
        action.set_defaults(status="parked")
        every.append(action)
    for action in every:
        action.add_argument("--consumer", help="a handler's queue")
        action.add_argument("--type", help="an event's name")
        action.add_argument("--reason", help="as `causes` tells it")
        action.add_argument("--cause", help="as `causes` tells it")
        action.add_argument("--account", type=UUID)
    for name, text in (
        ("show", "everything about one"),
        ("replay", "send one to its handler again"),
        ("discard", "give one up"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("id", type=UUID)
        if name == "replay":
            action.add_argument(
                "--data", type=_payload, help="another payload, as JSON: a new event is sent"
            )
    return parser


def _moment(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{value!r} is no moment like 2026-11-21T10:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _payload(value: str) -> dict[str, Any]:
    try:
        data = json.loads(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise argparse.ArgumentTypeError("it is no JSON object")
    return data


def _slices(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    while since < until:
        end = min(since + SLICE, until)
        yield since, end
        since = end


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
