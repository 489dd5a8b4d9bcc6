"""Looks at the system from outside (SQL, the provider's book, the clients) for what must not be.

`waiting` lists what is still on its way, which has to become nothing; `violations` lists what is
wrong for good, and `stories` tells how it came to that.
"""

import importlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg

from infra.environment import SERVICES
from tests.chaos import bank, billing, news, rules
from tests.chaos.history import History
from tests.chaos.poison import ACCOUNT, MALFORMED

#: Shown of each kind of violation; the count tells how many there are.
SHOWN = 5
#: What a process of a service may take, in MiB, however long it runs.
MOST_MEMORY = 250
#: Never in a log: passwords, mail addresses of customers, tokens.
SECRET = re.compile(rb"chaos passphrase|c\d+-\d+@example\.com|eyJ[\w-]{20,}\.eyJ|tok_[a-z]+")


def matches(pattern: str, key: str) -> bool:
    """Whether a topic binding of ours takes a routing key: `#`, `kind.*` or the very key."""
    kind = key.partition(".")[0]
    return pattern in {"#", key, f"{kind}.*"}


def bindings() -> dict[str, dict[str, tuple[str, ...]]]:
    """By service, each handler's queue and what it is bound to."""
    return {service: dict(_consumers(service).bindings()) for service in SERVICES}


def _bound_to(key: str) -> list[str]:
    return [
        queue
        for queues in bindings().values()
        for queue, patterns in queues.items()
        if any(matches(pattern, key) for pattern in patterns)
    ]


def ordered() -> list[str]:
    """The queues of the handlers that take an aggregate's events in sequence."""
    return [
        queue
        for service in SERVICES
        for queue, handler in _consumers(service).handlers.items()
        if handler.ordered
    ]


def _consumers(service: str) -> Any:
    return importlib.import_module(f"services.{service}.main").service.consumers


async def bound(connection: Any) -> tuple[list[str], list[str]]:
    """Who is bound to which of the kinds of event that there are: handlers, and kinds."""
    keys = [
        row[0]
        for row in await connection.fetch(
            f"SELECT DISTINCT routing_key FROM ({rules.ALL_EVENTS}) e"  # noqa: S608  (ours)
        )
    ]
    pairs = [
        (queue, key)
        for queues in bindings().values()
        for queue, patterns in queues.items()
        for key in keys
        if any(matches(pattern, key) for pattern in patterns)
    ]
    return [queue for queue, _ in pairs], [key for _, key in pairs]


async def oldest_not_taken(connection: Any) -> datetime | None:
    """When the oldest event was made that a handler lacks."""
    rows = await connection.fetch(rules.MISSING, *await bound(connection), timeout=60)
    oldest: datetime | None = min((row[2] for row in rows), default=None)
    return oldest


class Checker:
    """Asks the database as its superuser, and the sandbox's file directly."""

    def __init__(self, database_url: str, sandbox: Path) -> None:
        self._url = database_url
        self._sandbox = sandbox

    async def _connect(self) -> Any:
        return await asyncpg.connect(self._url, timeout=5)

    async def waiting(self) -> dict[str, int]:
        """What has not come to rest, and how much of it."""
        connection = await self._connect()
        try:
            found: dict[str, int] = {}
            for name, sql in rules.PATH.items():
                for service in SERVICES:
                    found[f"{service}: {name}"] = await connection.fetchval(
                        sql.replace("{s}", service)
                    )
            for name, sql in rules.WORK.items():
                found[name] = await connection.fetchval(sql)
            found["webhooks that the provider has to send"] = bank.unsent(self._sandbox)
            if not any(found.values()):  # it is the dearest question
                rows = await connection.fetch(rules.MISSING, *await bound(connection), timeout=60)
                found["deliveries missing"] = sum(row[1] for row in rows)
            return {name: count for name, count in found.items() if count}
        finally:
            await connection.close()

    async def violations(self, history: History) -> list[str]:
        """What is wrong, a line each."""
        connection = await self._connect()
        try:
            found = list(history.surprises)
            for name, sql in {**rules.RULES, **rules.EDGES, **bank.RULES}.items():
                found += _told(name, await connection.fetch(sql))
            for name, rows in (await billing.broken(connection, history.foretold)).items():
                found += _told(name, rows)
            for service in SERVICES:
                rows = await connection.fetch(rules.SEQUENCES.replace("{s}", service))
                found += _told(f"{service}: a sequence with a gap or a repeat", rows)
                rows = await connection.fetch(rules.LETTERS.replace("{s}", service))
                found += _told(f"{service}: parked", rows)
                rows = await connection.fetch(news.FORGOTTEN.replace("{s}", service))
                found += _told(f"{service}: what the next release reported is not kept", rows)
            who = await bound(connection)
            missing = await connection.fetch(rules.MISSING, *who)
            found += [f"{row[0]}: {row[1]} events not handled" for row in missing]
            rows = await connection.fetch(rules.GHOSTS)
            found += _told("a ghost: handled, but never committed", rows)
            rows = await connection.fetch(rules.DOUBLES, *who)
            found += _told("handled more often than there were events", rows)
            rows = await connection.fetch(rules.OUT_OF_ORDER, ordered())
            found += _told("handled before what precedes it", rows)
            found += await self._poison(connection)
            found += await self._provider(connection)
            found += await self._clients(connection, history)
            return found
        finally:
            await connection.close()

    async def counts(self) -> dict[str, int]:
        """How much there was to get wrong."""
        connection = await self._connect()
        try:
            tables = (
                "subscriptions.subscriptions",
                "subscriptions.usage_events",
                "subscriptions.token_orders",
                "invoicing.invoices",
                "invoicing.credit_notes",
                "payments.attempts",
                "payments.refunds",
            )
            found = {
                name.split(".")[1]: await connection.fetchval(f"SELECT count(*) FROM {name}")  # noqa: S608  (names are ours)
                for name in tables
            }
            for name in ("outbox", "inbox"):
                counts = [
                    await connection.fetchval(f"SELECT count(*) FROM {service}.{name}")  # noqa: S608  (names are ours)
                    for service in SERVICES
                ]
                found["events" if name == "outbox" else "deliveries"] = sum(counts)
            return found
        finally:
            await connection.close()

    # ---- the path ---------------------------------------------------------------------------

    async def _poison(self, connection: Any) -> list[str]:
        """What is unreadable each bound handler parked; what a later release reports it passed."""
        sent = []
        for service in SERVICES:
            sent += await connection.fetch(
                f"SELECT id, routing_key, body FROM {service}.outbox"  # noqa: S608  (names are ours)
                f" WHERE account_id = '{ACCOUNT}'"
            )
        parked: set[str] = set()
        for service in SERVICES:
            rows = await connection.fetch(
                f"SELECT consumer FROM {service}.dead_letters"  # noqa: S608  (names are ours)
                " WHERE reason = 'malformed' AND event_id IS NULL"
            )
            parked |= {row["consumer"] for row in rows}
        rows = await connection.fetch(
            f"SELECT consumer, event_id FROM ({rules.ALL_TAKEN}) t"  # noqa: S608  (names are ours)
            " WHERE event_id = ANY($1)",
            [row["id"] for row in sent],
        )
        passed = {(row["consumer"], row["event_id"]) for row in rows}
        found: list[str] = []
        for row in sent:
            is_unreadable = bytes(row["body"]) == MALFORMED.encode()
            for queue in _bound_to(row["routing_key"]):
                if is_unreadable and queue not in parked:
                    found.append(f"{queue}: poison {row['routing_key']} was not parked")
                if not is_unreadable and (queue, row["id"]) not in passed:
                    found.append(f"{queue}: {row['routing_key']} was not passed over")
        return found

    # ---- the money --------------------------------------------------------------------------

    @contextmanager
    def _book(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(f"file:{self._sandbox}?mode=ro", uri=True)) as book:
            yield book

    async def _provider(self, connection: Any) -> list[str]:
        """The provider's own book against ours, charge by charge and refund by refund."""
        with self._book() as book:
            charges = book.execute(
                "SELECT key, json_extract(metadata, '$.invoice_id'), captured, fee, id"
                " FROM charges WHERE captured > 0"
            ).fetchall()
            refunds = book.execute("SELECT id, amount FROM refunds").fetchall()
        found = []
        by_invoice = Counter(invoice for _, invoice, *_ in charges)
        twice = [(invoice, count) for invoice, count in by_invoice.items() if count > 1]
        found += _told("an invoice charged twice at the provider", twice)
        rows = await connection.fetch(
            "SELECT id::text, amount FROM payments.attempts WHERE status = 'succeeded'"
        )
        ours = {row["id"]: row["amount"] for row in rows}
        theirs = {key: captured for key, _, captured, *_ in charges}
        found += _told("the provider and we differ about a charge", _differ(ours, theirs))
        rows = await connection.fetch(
            "SELECT reference, amount FROM payments.refunds WHERE status = 'succeeded'"
        )
        ours = {row["reference"]: row["amount"] for row in rows}
        found += _told("the provider and we differ about a refund", _differ(ours, dict(refunds)))
        return found + await bank.differences(connection, self._sandbox)

    # ---- the clients ------------------------------------------------------------------------

    async def _clients(self, connection: Any, history: History) -> list[str]:
        """What clients were given is there, and nothing that they did not ask for."""
        found: list[str] = []
        for what, sql in GIVEN.items():
            stored = {row[0] for row in await connection.fetch(sql)}
            given = history.made(what)
            found += _told(
                f"{what}: what a client was given is gone", [(i,) for i in given - stored]
            )
            if not history.is_unsure_of(what):
                found += _told(f"{what}: nobody asked for it", [(i,) for i in stored - given])
        return found

    # ---- how it came to that ----------------------------------------------------------------

    async def stories(
        self, violations: Iterable[str], history: History, most: int = 5
    ) -> list[str]:
        """The shortest history of each aggregate that is named, over all services."""
        connection = await self._connect()
        told: list[str] = []
        seen: set[str] = set()
        try:
            for violation in violations:
                for found in UUIDS.findall(violation):
                    if found not in seen and len(seen) < most:
                        seen.add(found)
                        told += [f"--- {found} ({violation[:80]})"]
                        told += await self._story(connection, found, history)
        finally:
            await connection.close()
        return told

    async def _story(self, connection: Any, about: str, history: History) -> list[str]:
        """Its own events, those of the invoice, payment and subscription it belongs to, charges."""
        rows = await connection.fetch(RELATED, about)
        related = {about, *(str(row[0]) for row in rows if row[0])}
        events = await connection.fetch(
            f"SELECT * FROM ({rules.ALL_EVENTS}) e WHERE aggregate_id = ANY($1::text[]::uuid[])"  # noqa: S608  (names are ours)
            " ORDER BY created_at, sequence",
            list(related),
        )
        taken = await connection.fetch(
            f"SELECT * FROM ({rules.ALL_TAKEN}) t WHERE event_id = ANY($1::uuid[])"  # noqa: S608  (names are ours)
            " ORDER BY processed_at",
            [event["id"] for event in events],
        )
        lines = [(event["created_at"], _event(event)) for event in events]
        lines += [
            (row["processed_at"], f"    {row['consumer']} took {row['event_id']}") for row in taken
        ]
        attempts = await connection.fetch(
            "SELECT started_at, id, number, status FROM payments.attempts"
            " WHERE invoice_id = ANY($1::text[]::uuid[])",
            list(related),
        )
        lines += [
            (row["started_at"], f"attempt {row['number']}, {row['id']}: {row['status']}")
            for row in attempts
        ]
        told = [f"{at:%H:%M:%S.%f}  {text}" for at, text in sorted(lines, key=lambda one: one[0])]
        with self._book() as book:
            charges = book.execute(
                "SELECT key, status, captured, json_extract(metadata, '$.invoice_id') FROM charges"
            ).fetchall()
        told += [
            f"provider: {status} {captured} for attempt {key}"
            for key, status, captured, invoice in charges
            if invoice in related
        ]
        return told + [f"client: {call}" for call in history.calls if call.made in related]


def _event(row: Any) -> str:
    return f"{row['routing_key']} {row['sequence']} of {row['aggregate_id']} ({row['id']})"


UUIDS = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
#: From an invoice, a payment, an attempt, a credit note or a subscription to what it hangs on.
RELATED = """
SELECT x FROM (
    SELECT unnest(ARRAY[i.id, i.subscription_id, p.id]) AS x FROM invoicing.invoices i
      LEFT JOIN payments.payments p ON p.invoice_id = i.id
      LEFT JOIN payments.attempts a ON a.invoice_id = i.id
      LEFT JOIN invoicing.credit_notes n ON n.invoice_id = i.id
     WHERE $1::text::uuid IN (i.id, p.id, a.id, n.id)
        OR ($1::text::uuid = i.subscription_id AND i.billing_reason = 'subscription_start')) r
"""
#: What clients are given an id of, and where it is then.
GIVEN = {
    "subscribe": "SELECT id::text FROM subscriptions.subscriptions",
    "buy tokens": "SELECT id::text FROM subscriptions.token_orders",
    "report usage": "SELECT id FROM subscriptions.usage_events",
    "void usage": "SELECT id FROM subscriptions.usage_events WHERE voided",
}


def leaks(logs: Path) -> list[str]:
    """Lines of a log that say what none may say."""
    found: list[tuple[str, str]] = []
    for log in sorted(logs.glob("*.log")):
        with log.open("rb") as lines:
            found += [
                (log.name, line.decode(errors="replace").strip()[:200])
                for line in lines
                if SECRET.search(line)
            ]
    return _told("a secret or a person in a log", found)


def bloated(footprint: dict[str, int]) -> list[str]:
    """Processes that have grown beyond what one may take."""
    rows = [(name, f"{mib} MiB") for name, mib in footprint.items() if mib > MOST_MEMORY]
    return _told("a process that grew", rows)


def _differ(ours: dict[Any, int], theirs: dict[Any, int]) -> list[tuple[Any, ...]]:
    return [
        (key, f"ours {ours.get(key)}", f"theirs {theirs.get(key)}")
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key)
    ]


def _told(name: str, rows: Iterable[Any]) -> list[str]:
    told = [", ".join(str(value) for value in tuple(row)) for row in rows]
    more = [f"{name}: and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return [f"{name}: {text}" for text in told[:SHOWN]] + more
