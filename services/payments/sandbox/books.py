"""What the sandbox has charged and sent back, in a SQLite file that survives a kill."""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.files import private_file

SCHEMA = """
CREATE TABLE IF NOT EXISTS methods (
    id TEXT PRIMARY KEY, token TEXT NOT NULL, account TEXT NOT NULL,
    charges INTEGER NOT NULL DEFAULT 0, exp_month INTEGER NOT NULL, exp_year INTEGER NOT NULL,
    detached INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status INTEGER, body TEXT);
CREATE TABLE IF NOT EXISTS hung (key TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS charges (
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE,
    method TEXT NOT NULL, status TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL,
    captured INTEGER NOT NULL DEFAULT 0, refunded INTEGER NOT NULL DEFAULT 0,
    fee INTEGER NOT NULL DEFAULT 0, decline_code TEXT, capture INTEGER NOT NULL,
    metadata TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS refunds (
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE,
    charge TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS disputes (
    id TEXT PRIMARY KEY, charge TEXT NOT NULL, amount INTEGER NOT NULL, currency TEXT NOT NULL,
    fee INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS payouts (
    id TEXT PRIMARY KEY, amount INTEGER NOT NULL, currency TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS webhooks (
    position INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL, copies INTEGER NOT NULL,
    due REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0, sent REAL);
CREATE TABLE IF NOT EXISTS marks (id TEXT NOT NULL, mark TEXT NOT NULL, PRIMARY KEY (id, mark));
CREATE INDEX IF NOT EXISTS webhooks_due ON webhooks (due) WHERE sent IS NULL;
"""

Row = dict[str, Any]


class Books:
    """One SQLite connection. Calls are short and synchronous: nothing else runs between them."""

    def __init__(self, path: Path) -> None:
        # Its journals get the rights of the file itself.
        self._db = sqlite3.connect(private_file(path), isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # WAL with NORMAL loses nothing when the process is killed, only when the power fails.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def one(self, sql: str, *parameters: Any) -> Row | None:
        row = self._db.execute(sql, parameters).fetchone()
        return dict(row) if row else None

    def all(self, sql: str, *parameters: Any) -> list[Row]:
        return [dict(row) for row in self._db.execute(sql, parameters)]

    def run(self, sql: str, *parameters: Any) -> None:
        self._db.execute(sql, parameters)

    def insert(self, table: str, **values: Any) -> None:
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self._db.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})",  # noqa: S608  (names are ours)
            tuple(values.values()),
        )

    def page(self, table: str, *, after: int, since: float, limit: int) -> list[Row]:
        """Rows in the order in which they were made."""
        return self.all(
            f"SELECT * FROM {table} WHERE position > ? AND created >= ?"  # noqa: S608  (ours)
            " ORDER BY position LIMIT ?",
            after,
            since,
            limit,
        )

    def mark(self, thing: str, mark: str) -> None:
        """Note that something happened to a thing later; twice is once."""
        self._db.execute("INSERT OR IGNORE INTO marks VALUES (?, ?)", (thing, mark))

    def has_mark(self, thing: str, mark: str) -> bool:
        return self.one("SELECT 1 FROM marks WHERE id = ? AND mark = ?", thing, mark) is not None

    def announce(self, kind: str, data: Row, *, copies: int = 1, delay: float = 0.0) -> None:
        """Put a webhook into the queue, in the caller's transaction."""
        now = time.time()
        event = {
            "id": f"evt_{secrets.token_hex(12)}",
            "type": kind,
            "created": int(now),
            "data": data,
        }
        self.insert("webhooks", body=json.dumps(event), copies=copies, due=now + delay)


def charge_view(row: Row) -> Row:
    """A charge as the API shows it."""
    return {
        "id": row["id"],
        "object": "charge",
        "key": row["key"],
        "payment_method": row["method"],
        "status": row["status"],
        "amount": row["amount"],
        "currency": row["currency"],
        "captured": row["captured"],
        "refunded": row["refunded"],
        "fee": row["fee"],
        "decline_code": row["decline_code"],
        "metadata": json.loads(row["metadata"]),
        "created": row["created"],
    }


def refund_view(row: Row, *, failed: bool = False) -> Row:
    """A refund as the API shows it."""
    return {
        "id": row["id"],
        "object": "refund",
        "status": "failed" if failed else "succeeded",
        "key": row["key"],
        "charge": row["charge"],
        "amount": row["amount"],
        "currency": row["currency"],
        "created": row["created"],
    }
