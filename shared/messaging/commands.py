"""The message path's verbs of `python -m services.<name>`: replay and dead-letters."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select

from shared.clock import utc_now
from shared.db import Scope, UnitOfWork
from shared.messaging import dead_letters
from shared.messaging import replay as replays
from shared.runtime import Runtime

#: A long range is sent in transactions of so much of it.
SLICE = timedelta(hours=1)
OPERATOR_AT_THE_KEYBOARD = Scope(account_id=None, actor="command line")

Command = Callable[[Runtime[Any, Any], list[str]], Awaitable[int]]


async def replay(runtime: Runtime[Any, Any], arguments: list[str]) -> int:
    """Send a range of the outbox again; without --yes it only counts."""
    asked = _replay_parser(runtime.database.platform.schema).parse_args(arguments)
    until = asked.until or utc_now()
    total = 0
    for start, end in _slices(asked.since, until):
        selection = replays.Selection(
            since=start,
            until=end,
            types=asked.type,
            account_id=asked.account,
            aggregate_id=asked.aggregate,
            consumer=asked.consumer,
        )
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
    """List, show, replay or discard dead letters."""
    asked = _letters_parser(runtime.database.platform.schema).parse_args(arguments)
    async with runtime.begin(OPERATOR_AT_THE_KEYBOARD) as uow:
        await _LETTER_VERBS[asked.action](uow, asked)
    return 0


COMMANDS: Mapping[str, Command] = {"replay": replay, "dead-letters": letters}


async def _list(uow: UnitOfWork, asked: argparse.Namespace) -> None:
    wanted = dead_letters.Filter(consumer=asked.consumer, event_name=asked.type)
    table = dead_letters.table(uow)
    statement = wanted.narrow(uow, select(table)).order_by(table.c.id).limit(asked.limit)
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
    data = json.loads(asked.data) if asked.data else None
    event_id = await dead_letters.replay(uow, asked.id, data=data)
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
    listing = actions.add_parser("list", help="open letters, the oldest first")
    listing.add_argument("--consumer")
    listing.add_argument("--type")
    listing.add_argument("--limit", type=int, default=100)
    actions.add_parser("causes", help="open letters, counted by cause")
    for name, text in (
        ("show", "everything about one"),
        ("replay", "send one to its handler again"),
        ("discard", "give one up"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("id", type=UUID)
        if name == "replay":
            action.add_argument("--data", help="another payload, as JSON: a new event is sent")
    return parser


def _moment(value: str) -> datetime:
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _slices(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    while since < until:
        end = min(since + SLICE, until)
        yield since, end
        since = end


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
