"""What happens to money without anybody asking Perennial: by banks, card networks, the provider.

It acts on the sandbox, which tells the system by webhooks, whatever is broken at that moment.
"""

# ruff: noqa: S311 -- chance here has to be repeatable, not secret

import random
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from services.payments.sandbox.returns import BALANCE

#: Between two of its doings.
PAUSE_SECONDS = 0.4
#: What goes on all the time.
DOINGS = {"pay out": 2, "send a payout back": 1, "renew a card": 2}
#: Of the charges of which nothing went back, so many are disputed in the end, one in:
DISPUTED = 6


class Bank:
    """Payouts, payouts that come back and renewed cards during a run, disputes at its end.

    What the sandbox refuses (it may be down at the moment) is left at that. Charges are only
    disputed once the customers are done: a credit note for money that a bank has taken back is a
    matter for a person, and would have to be told from a fault.
    """

    def __init__(self, url: str, seed: int) -> None:
        self._http = httpx.Client(base_url=url, timeout=5)
        self._rng = random.Random(f"{seed}/bank")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="bank", daemon=True)
        self.done: Counter[str] = Counter()

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End what goes on all the time."""
        self._over.set()
        self._thread.join()

    def contest(self, sandbox: Path) -> None:
        """Dispute some of the charges, and decide most of the disputes.

        Webhooks that nobody took while things were broken are sent now: the sandbox would wait
        up to a minute.
        """
        for charge in self._list("charges"):
            if charge["captured"] and not charge["refunded"] and self._rng.random() < 1 / DISPUTED:
                self._do("dispute", f"/v1/charges/{charge['id']}/dispute", {})
        for dispute in self._list("disputes"):
            if dispute["status"] == "open" and self._rng.random() < 0.8:
                won = self._rng.random() < 0.5
                self._do("decide", f"/v1/disputes/{dispute['id']}/close", {"won": won})
        self._http.close()
        with closing(sqlite3.connect(sandbox, timeout=5)) as book, book:
            book.execute("UPDATE webhooks SET due = 0 WHERE sent IS NULL")

    def _go_on(self) -> None:
        while not self._over.wait(PAUSE_SECONDS):
            doing = self._rng.choices(list(DOINGS), list(DOINGS.values()))[0]
            try:
                self._go(doing)
            except (httpx.HTTPError, ValueError):
                continue

    def _go(self, doing: str) -> None:
        if doing == "pay out":
            self._do(doing, "/v1/payouts")
        elif doing == "send a payout back":
            if found := self._list("payouts"):
                self._do(doing, f"/v1/payouts/{self._rng.choice(found)['id']}/fail")
        elif found := self._list("charges"):
            method = self._rng.choice(found)["payment_method"]
            self._do(doing, f"/v1/payment_methods/{method}/network_update")

    def _list(self, kind: str) -> list[dict[str, Any]]:
        answer = self._http.get(f"/v1/{kind}", params={"limit": 1000})
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return found

    def _do(self, doing: str, path: str, body: Any = None) -> None:
        self.done[doing] += self._http.post(path, json=body).is_success


#: What must not be, in the books of money that moved by itself.
RULES = {
    "disputed money that is neither at the bank nor decided": """
        SELECT l.currency, l.amount, coalesce(d.amount, 0) FROM (
            SELECT currency, sum(amount) AS amount FROM payments.ledger_entries
             WHERE ledger_account = 'disputed' GROUP BY currency) l
          LEFT JOIN (SELECT currency, sum(amount) AS amount FROM payments.disputes
             WHERE status = 'open' GROUP BY currency) d USING (currency)
         WHERE l.amount <> coalesce(d.amount, 0)
    """,
    "more went back or was disputed than was taken": """
        SELECT p.id, p.amount, p.refunded, sum(d.amount) FROM payments.payments p
          JOIN payments.disputes d ON d.payment_id = p.id AND d.status <> 'won'
         GROUP BY p.id HAVING p.refunded + sum(d.amount) > p.amount
    """,
}


def unsent(sandbox: Path) -> int:
    """Webhooks that the provider has not delivered yet."""
    with closing(sqlite3.connect(f"file:{sandbox}?mode=ro", uri=True)) as book:
        (count,) = book.execute("SELECT count(*) FROM webhooks WHERE sent IS NULL").fetchone()
    return int(count)


async def differences(connection: Any, sandbox: Path) -> list[str]:
    """Disputes, payouts and the balance: what the provider's own book says, and ours."""
    with closing(sqlite3.connect(f"file:{sandbox}?mode=ro", uri=True)) as book:
        theirs = {
            "dispute": dict(book.execute("SELECT id, status FROM disputes").fetchall()),
            "payout": dict(
                book.execute(
                    "SELECT 'sandbox:' || id, amount FROM payouts"
                    " WHERE id NOT IN (SELECT id FROM marks WHERE mark = 'failed')"
                ).fetchall()
            ),
            "balance": dict(book.execute(BALANCE).fetchall()),
        }
    ours = {
        "dispute": await connection.fetch("SELECT reference, status FROM payments.disputes"),
        "payout": await connection.fetch(
            "SELECT t.reference, sum(e.amount)::bigint FROM payments.ledger_transactions t"
            " JOIN payments.ledger_entries e ON e.transaction_id = t.id"
            " WHERE e.ledger_account = 'bank' GROUP BY t.reference HAVING sum(e.amount) <> 0"
        ),
        "balance": await connection.fetch(
            "SELECT currency, sum(amount)::bigint FROM payments.ledger_entries"
            " WHERE ledger_account = 'provider:sandbox' GROUP BY currency"
        ),
    }
    found = []
    for kind, rows in ours.items():
        known = {row[0]: row[1] for row in rows}
        for name in sorted(known.keys() | theirs[kind].keys()):
            if known.get(name) != theirs[kind].get(name):
                told = f"ours {known.get(name)}, theirs {theirs[kind].get(name)}"
                found.append(f"the provider and we differ about a {kind}: {name}, {told}")
    return found
