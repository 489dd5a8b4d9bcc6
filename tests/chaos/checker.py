"""Looks at the system from outside (SQL, the provider's book, the clients) for what must not be.

`waiting` lists what is still on its way, which has to become nothing; `violations` lists what is
wrong for good.
"""

import importlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncpg

from infra.environment import SERVICES
from tests.chaos.history import History

#: Shown of each kind of violation; the count tells how many there are.
SHOWN = 5

#: Per service: events that wait to be published, that came too early, that were given up.
PATH = {
    "outbox rows not sent": "SELECT count(*) FROM {s}.outbox WHERE sent_at IS NULL",
    "early events": "SELECT count(*) FROM {s}.early_events",
    "test clocks behind": (
        "SELECT count(*) FROM {s}.account_clocks WHERE reported_revision < revision"
    ),
}
#: What the business still has in hand.
WORK = {
    "attempts of unknown outcome": (
        "SELECT count(*) FROM payments.attempts WHERE status = 'unknown'"
    ),
    "payments due": """
        SELECT count(*) FROM payments.payments p
          LEFT JOIN payments.account_clocks c USING (account_id)
         WHERE p.due_at <= coalesce(c.now, now()) AND p.status IN ('created', 'failed')
    """,
    "payments under way": (
        "SELECT count(*) FROM payments.payments WHERE status IN ('processing', 'unknown')"
    ),
    "refunds under way": "SELECT count(*) FROM payments.refunds WHERE status = 'pending'",
    "webhooks to work off": (
        "SELECT count(*) FROM payments.webhook_events"
        " WHERE processed_at IS NULL AND process_at <= now()"
    ),
    "test clocks advancing": (
        "SELECT count(*) FROM subscriptions.test_clocks WHERE status <> 'ready'"
    ),
    "paid invoices whose subscription does not know": """
        SELECT count(*) FROM subscriptions.subscriptions s JOIN invoicing.invoices i
            ON i.subscription_id = s.id AND i.billing_reason = 'subscription_start'
         WHERE i.status = 'paid' AND s.status = 'incomplete'
    """,
}

#: Each finds what must not be, as rows that say what it is.
RULES = {
    "an invoice with two successful attempts": """
        SELECT invoice_id FROM payments.attempts WHERE status = 'succeeded'
         GROUP BY invoice_id HAVING count(*) > 1
    """,
    "the ledger does not sum to zero": """
        SELECT currency, sum(amount) FROM payments.ledger_entries
         GROUP BY currency HAVING sum(amount) <> 0
    """,
    "a ledger transaction does not sum to zero": """
        SELECT transaction_id FROM payments.ledger_entries
         GROUP BY transaction_id, currency HAVING sum(amount) <> 0
    """,
    "a successful attempt that is not in the ledger, or with another amount": """
        SELECT a.id FROM payments.attempts a
          LEFT JOIN payments.ledger_transactions t ON t.kind = 'charge'
               AND t.reference = a.id::text
          LEFT JOIN payments.ledger_entries e ON e.transaction_id = t.id
               AND e.ledger_account = 'clearing'
         WHERE a.status = 'succeeded' AND e.amount IS DISTINCT FROM -a.amount
    """,
    "money that was taken and is not matched with an invoice": """
        SELECT currency, sum(amount) FROM payments.ledger_entries
         WHERE ledger_account = 'clearing' GROUP BY currency HAVING sum(amount) <> 0
    """,
    "a payment that succeeded for an invoice that is neither paid nor paid back": """
        SELECT i.number FROM payments.payments p JOIN invoicing.invoices i ON i.id = p.invoice_id
         WHERE p.status = 'succeeded' AND i.status <> 'paid' AND p.refunded < p.amount
    """,
    "a paid invoice whose money nobody has": """
        SELECT i.number FROM invoicing.invoices i
          LEFT JOIN payments.payments p ON p.invoice_id = i.id
         WHERE i.status = 'paid' AND i.amount_paid > 0
           AND p.status IS DISTINCT FROM 'succeeded'
    """,
    "an invoice and the money received for it differ": """
        SELECT i.number FROM invoicing.invoices i
          LEFT JOIN invoicing.received_payments r ON r.invoice_id = i.id
         GROUP BY i.id, i.number, i.amount_paid
        HAVING coalesce(sum(r.applied), 0) <> i.amount_paid
    """,
    "a finalized invoice that nobody collects": """
        SELECT i.number FROM invoicing.invoices i
          LEFT JOIN payments.payments p ON p.invoice_id = i.id
         WHERE i.status = 'open' AND i.total > i.credit_applied AND i.collect_automatically
           AND p.id IS NULL
    """,
    "a failed payment with neither a retry, a dunning nor an end": """
        SELECT p.id FROM payments.payments p
          LEFT JOIN payments.dunnings d ON d.payment_id = p.id
         WHERE p.status = 'failed' AND p.due_at IS NULL AND d.id IS NULL
           AND p.billing_reason = 'subscription_cycle'
    """,
    "invoice numbers with a gap": """
        SELECT n.series, n.last, count(i.id) FROM invoicing.number_series n
          JOIN invoicing.invoices i ON i.legal_entity_id = n.legal_entity_id
               AND i.series = n.series AND i.number IS NOT NULL
         GROUP BY n.id, n.series, n.last HAVING n.last <> count(DISTINCT i.number)
    """,
    "a period billed twice": """
        SELECT i.subscription_id, i.billing_reason, l.period_start
          FROM invoicing.invoices i JOIN invoicing.invoice_lines l ON l.invoice_id = i.id
         WHERE i.billing_reason IN ('subscription_start', 'subscription_cycle')
           AND l.kind NOT LIKE '%credit%' AND l.amount > 0
         GROUP BY 1, 2, 3 HAVING count(DISTINCT i.id) > 1
    """,
    "a subscription that began and was not billed": """
        SELECT s.id FROM subscriptions.subscriptions s
          LEFT JOIN invoicing.invoices i ON i.subscription_id = s.id
         WHERE i.id IS NULL
    """,
}

#: Every table with a version: it equals the number of events of the aggregate.
SEQUENCES = """
SELECT aggregate_id FROM {s}.outbox WHERE headers IS NULL AND routing_key <> 'test_clock.reported'
 GROUP BY aggregate_id, split_part(routing_key, '.', 1)
HAVING min(sequence) <> 1 OR max(sequence) <> count(*) OR count(DISTINCT sequence) <> count(*)
"""
LETTERS = "SELECT consumer, event_name, cause, error FROM {s}.dead_letters WHERE status = 'parked'"
EVENTS = "SELECT id, routing_key, account_id FROM {s}.outbox WHERE headers IS NULL"
TAKEN = "SELECT consumer, event_id FROM {s}.inbox WHERE processed_at IS NOT NULL"
HANDLED = (
    "SELECT account_id, name, count FROM {s}.clock_activity"
    " WHERE direction = 'handled' AND name NOT LIKE '%.follow_test_clock'"
)


def matches(pattern: str, key: str) -> bool:
    """Whether a topic binding of ours takes a routing key: `#`, `kind.*` or the very key."""
    kind = key.partition(".")[0]
    return pattern in {"#", key, f"{kind}.*"}


def bindings() -> dict[str, dict[str, tuple[str, ...]]]:
    """By service, each handler's queue and what it is bound to."""
    found = {}
    for service in SERVICES:
        module = importlib.import_module(f"services.{service}.main")
        found[service] = dict(module.service.consumers.bindings())
    return found


class Checker:
    """Asks the database as its superuser, and the sandbox's file directly."""

    def __init__(self, database_url: str, sandbox: Path) -> None:
        self._url = database_url
        self._sandbox = sandbox
        self._bindings = bindings()

    async def waiting(self) -> dict[str, int]:
        """What has not come to rest, and how much of it."""
        connection = await asyncpg.connect(self._url, timeout=5)
        try:
            found: dict[str, int] = {}
            for name, sql in PATH.items():
                for service in SERVICES:
                    found[f"{service}: {name}"] = await connection.fetchval(sql.format(s=service))
            for name, sql in WORK.items():
                found[name] = await connection.fetchval(sql)
            found["deliveries missing"] = sum((await self._missing(connection)).values())
            return {name: count for name, count in found.items() if count}
        finally:
            await connection.close()

    async def violations(self, history: History) -> list[str]:
        """What is wrong, a line each."""
        connection = await asyncpg.connect(self._url, timeout=5)
        try:
            found = list(history.surprises)
            for name, sql in RULES.items():
                found += _told(name, await connection.fetch(sql))
            for service in SERVICES:
                rows = await connection.fetch(SEQUENCES.format(s=service))
                found += _told(f"{service}: a sequence with a gap or a repeat", rows)
                rows = await connection.fetch(LETTERS.format(s=service))
                found += _told(f"{service}: parked", rows)
            missing = await self._missing(connection)
            found += [f"{queue}: {count} events not handled" for queue, count in missing.items()]
            found += await self._ghosts(connection)
            found += await self._doubles(connection)
            found += await self._provider(connection)
            found += await self._clients(connection, history)
            return found
        finally:
            await connection.close()

    async def counts(self) -> dict[str, int]:
        """How much there was to get wrong."""
        connection = await asyncpg.connect(self._url, timeout=5)
        try:
            tables = ("subscriptions.subscriptions", "invoicing.invoices", "payments.attempts")
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

    async def _events(self, connection: Any) -> list[Any]:
        rows: list[Any] = []
        for service in SERVICES:
            rows += await connection.fetch(EVENTS.format(s=service))
        return rows

    async def _missing(self, connection: Any) -> dict[str, int]:
        """Committed events that a bound handler has not taken, by queue (no zombie record)."""
        taken: defaultdict[str, set[Any]] = defaultdict(set)
        for service in SERVICES:
            for row in await connection.fetch(TAKEN.format(s=service)):
                taken[row["consumer"]].add(row["event_id"])
        missing: Counter[str] = Counter()
        for event in await self._events(connection):
            for queue in self._bound(event["routing_key"]):
                missing[queue] += event["id"] not in taken[queue]
        return {queue: count for queue, count in missing.items() if count}

    def _bound(self, key: str) -> Iterable[str]:
        for queues in self._bindings.values():
            for queue, patterns in queues.items():
                if any(matches(pattern, key) for pattern in patterns):
                    yield queue

    async def _ghosts(self, connection: Any) -> list[str]:
        """Handled events that nobody has committed."""
        known = {event["id"] for event in await self._events(connection)}
        ghosts = []
        for service in SERVICES:
            rows = await connection.fetch(TAKEN.format(s=service))
            ghosts += [row for row in rows if row["event_id"] not in known]
        return _told("a ghost: handled, but never committed", ghosts)

    async def _doubles(self, connection: Any) -> list[str]:
        """Each handler counts, with its effect, what it took of an account: as much as there was.

        The inbox could not tell, for it is what must not fail; this count is a witness beside it.
        """
        due: Counter[tuple[str, Any]] = Counter()
        for event in await self._events(connection):
            if not event["routing_key"].startswith("test_clock."):
                for queue in self._bound(event["routing_key"]):
                    due[queue, event["account_id"]] += 1
        found = []
        for service in SERVICES:
            for row in await connection.fetch(HANDLED.format(s=service)):
                expected = due[row["name"], row["account_id"]]
                if row["count"] > expected:
                    found.append((row["name"], row["account_id"], row["count"], expected))
        return _told("handled more often than there were events", found)

    # ---- the money --------------------------------------------------------------------------

    async def _provider(self, connection: Any) -> list[str]:
        """The provider's own book against ours, charge by charge."""
        book = sqlite3.connect(f"file:{self._sandbox}?mode=ro", uri=True)
        try:
            charges = book.execute(
                "SELECT key, json_extract(metadata, '$.invoice_id'), captured, fee, id"
                " FROM charges WHERE captured > 0"
            ).fetchall()
            refunded = dict(
                book.execute("SELECT charge, sum(amount) FROM refunds GROUP BY charge").fetchall()
            )
        finally:
            book.close()
        found = []
        by_invoice = Counter(invoice for _, invoice, *_ in charges)
        twice = [(invoice, count) for invoice, count in by_invoice.items() if count > 1]
        found += _told("an invoice charged twice at the provider", twice)
        rows = await connection.fetch(
            "SELECT id::text, amount FROM payments.attempts WHERE status = 'succeeded'"
        )
        ours = {row["id"]: row["amount"] for row in rows}
        theirs = {key: captured for key, _, captured, *_ in charges}
        differ = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        found += _told(
            "the provider and we differ about a charge",
            [(key, f"ours {ours.get(key)}", f"theirs {theirs.get(key)}") for key in differ],
        )
        held = await connection.fetchval(
            "SELECT coalesce(sum(amount), 0)::bigint FROM payments.ledger_entries"
            " WHERE ledger_account = 'provider:sandbox'"
        )
        holds = sum(captured - fee for _, _, captured, fee, _ in charges) - sum(refunded.values())
        if held != holds:
            found.append(f"the ledger says the provider holds {held}, the provider says {holds}")
        return found

    # ---- the clients ------------------------------------------------------------------------

    async def _clients(self, connection: Any, history: History) -> list[str]:
        """What clients were given is there, and nothing that they did not ask for."""
        rows = await connection.fetch("SELECT id::text FROM subscriptions.subscriptions")
        stored = {row["id"] for row in rows}
        given = history.made("subscribe")
        found = _told(
            "a subscription that a client was given is gone", [(i,) for i in given - stored]
        )
        unknown = any(call.status is None for call in history.calls)
        if not unknown:
            found += _told("a subscription that nobody asked for", [(i,) for i in stored - given])
        return found


def _told(name: str, rows: Iterable[Any]) -> list[str]:
    told = [", ".join(str(value) for value in tuple(row)) for row in rows]
    more = [f"{name}: and {len(told) - SHOWN} more"] if len(told) > SHOWN else []
    return [f"{name}: {text}" for text in told[:SHOWN]] + more
