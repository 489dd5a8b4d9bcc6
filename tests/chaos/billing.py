"""What must hold of every bill (docs/billing.md), seen in rows and events when all is at rest.

A bill is what is owed less what was billed, so: of a charge never goes back more than was billed or
paid; each item is charged for an instant once; nothing is given that was not paid and not used; a
preview is what comes; what waits happens; usage is billed once. Some of it is SQL; the rest replays
the events of each subscription, written apart from the code that made them.
"""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.chaos.history import Foretold
from tests.chaos.poison import ACCOUNT

#: What a negative line brought counts, unless the invoice was taken back and it with it.
COUNTS = "i.status <> 'draft' AND i.amount_brought > 0"
BACK = f"""
    SELECT n.invoice_line_id AS line_id, n.net, n.starts_at IS NOT NULL AS by_itself
      FROM invoicing.credit_note_lines n
     UNION ALL
    SELECT l.takes_back, -l.net, true FROM invoicing.invoice_lines l
      JOIN invoicing.invoices i ON i.id = l.invoice_id
     WHERE l.takes_back IS NOT NULL AND (l.takes_back_tax IS NULL OR {COUNTS})
"""  # noqa: S608  (ours)
NOTES = """
    SELECT invoice_id, sum(total) AS total, sum(reduction) AS reduction, sum(refund) AS refund,
           sum(credit) AS credit, sum(returned_before) AS returned_before
      FROM invoicing.credit_notes GROUP BY invoice_id
"""
#: By the invoice of which it was taken, what negative lines of others brought.
MOVED = f"""
    SELECT o.invoice_id, sum(l.takes_back_tax - l.net) AS brought FROM invoicing.invoice_lines l
      JOIN invoicing.invoices i ON i.id = l.invoice_id
      JOIN invoicing.invoice_lines o ON o.id = l.takes_back
     WHERE l.takes_back_tax IS NOT NULL AND {COUNTS} GROUP BY o.invoice_id
"""  # noqa: S608  (ours)
RULES = {
    # ---- of a charge never goes back more than was billed, nor more than was paid -----------
    "more was taken back of a line than was billed": f"""
        SELECT l.invoice_id, l.position, l.net, sum(b.net) FROM invoicing.invoice_lines l
          JOIN ({BACK}) b ON b.line_id = l.id
         WHERE l.net >= 0 GROUP BY l.id HAVING sum(b.net) > l.net
    """,  # noqa: S608  (ours)
    "more went back of an invoice than was paid of it": f"""
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN ({NOTES}) n ON n.invoice_id = i.id
          LEFT JOIN ({MOVED}) m ON m.invoice_id = i.id
         WHERE coalesce(n.refund + n.credit, 0) + coalesce(m.brought, 0)
               > i.credit_applied + i.amount_paid + i.amount_brought
    """,  # noqa: S608  (ours)
    # What staff send back after it was credited is a gift, and a person is told of it.
    "what had gone back by hand was given again": f"""
        WITH heard AS (
            SELECT (convert_from(o.body, 'UTF8')::jsonb ->> 'subject')::uuid AS refund_id,
                   t.processed_at
              FROM payments.outbox o JOIN invoicing.inbox t ON t.event_id = o.id
             WHERE o.routing_key = 'refund.created'
               AND t.consumer = 'invoicing.count_returned_money'),
        gave AS (
            SELECT invoice_id, max(at) AS last FROM (
                SELECT n.invoice_id, o.created_at AS at FROM invoicing.credit_notes n
                  JOIN invoicing.outbox o ON o.aggregate_id = n.id
                   AND o.routing_key = 'credit_note.issued' WHERE n.refund + n.credit > 0
                 UNION ALL
                SELECT b.invoice_id, o.created_at FROM invoicing.invoice_lines l
                  JOIN invoicing.invoice_lines b ON b.id = l.takes_back
                  JOIN invoicing.outbox o ON o.aggregate_id = l.invoice_id
                   AND o.routing_key = 'invoice.finalized'
                 WHERE l.takes_back_tax IS NOT NULL) given GROUP BY invoice_id)
        SELECT i.id, i.number, sum(r.amount) FROM invoicing.invoices i
          JOIN gave g ON g.invoice_id = i.id
          JOIN payments.refunds r ON r.invoice_id = i.id AND r.credit_note_id IS NULL
               AND r.reason <> 'surplus' AND r.status <> 'failed'
          JOIN heard h ON h.refund_id = r.id AND h.processed_at < g.last
          LEFT JOIN ({NOTES}) n ON n.invoice_id = i.id
          LEFT JOIN ({MOVED}) m ON m.invoice_id = i.id
         GROUP BY i.id, n.refund, n.credit, m.brought
        HAVING coalesce(n.refund + n.credit, 0) + coalesce(m.brought, 0) + sum(r.amount)
               > i.credit_applied + i.amount_paid + i.amount_brought
    """,  # noqa: S608  (ours)
    "more of an invoice is not owed any more than was owed": f"""
        SELECT i.id, i.number FROM invoicing.invoices i JOIN ({NOTES}) n ON n.invoice_id = i.id
         WHERE n.reduction + i.amount_paid + i.credit_applied > i.total
    """,  # noqa: S608  (ours)
    "what was taken back is other than its invoice says": f"""
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN ({NOTES}) n ON n.invoice_id = i.id
          LEFT JOIN ({MOVED}) m ON m.invoice_id = i.id
         WHERE coalesce(n.reduction, 0) <> i.amount_reduced
            OR coalesce(m.brought, 0) <> i.amount_moved
    """,  # noqa: S608  (ours)
    # ---- nothing is given that was not paid, or was used ------------------------------------
    # All money and all gifts of an account, less what its invoices kept of it, are still there
    # or went back. Staff's credit notes and refunds by hand are in it on both sides.
    "an account has other than it paid, less what it used": f"""
        WITH kept AS (
            SELECT i.account_id, i.currency, sum(
                CASE WHEN i.status = 'void' THEN 0 ELSE
                    i.credit_applied + i.amount_paid + i.amount_brought - coalesce(m.brought, 0)
                    - coalesce(n.total - n.reduction, 0) END) AS amount,
                sum(coalesce(n.refund + n.returned_before, 0)) AS returned
              FROM invoicing.invoices i
              LEFT JOIN ({NOTES}) n ON n.invoice_id = i.id
              LEFT JOIN ({MOVED}) m ON m.invoice_id = i.id
             WHERE i.status <> 'draft' GROUP BY 1, 2),
        paid AS (
            SELECT i.account_id, i.currency, sum(r.applied) AS amount
              FROM invoicing.received_payments r
              JOIN invoicing.invoices i ON i.id = r.invoice_id GROUP BY 1, 2),
        gifts AS (
            SELECT account_id, currency, sum(amount) AS amount
              FROM invoicing.account_credit_entries
             WHERE kind IN ('granted', 'overpaid') GROUP BY 1, 2)
        SELECT k.account_id, k.currency, coalesce(p.amount, 0) AS paid, k.amount AS used,
               k.returned, coalesce(c.balance, 0) AS has
          FROM kept k
          LEFT JOIN paid p USING (account_id, currency)
          LEFT JOIN gifts g USING (account_id, currency)
          LEFT JOIN invoicing.account_credits c USING (account_id, currency)
         WHERE k.amount + k.returned + coalesce(c.balance, 0)
               <> coalesce(p.amount, 0) + coalesce(g.amount, 0)
    """,  # noqa: S608  (ours)
    "a balance that was carried over": """
        SELECT account_id, invoice_id FROM invoicing.account_credit_entries
         WHERE kind = 'carried_over'
         UNION ALL
        SELECT i.account_id, i.id FROM invoicing.invoice_lines l
          JOIN invoicing.invoices i ON i.id = l.invoice_id WHERE l.kind = 'carried_over'
    """,
    # ---- what was asked for is on a bill, and asked for as it is owed -----------------------
    "a charge that is on no invoice": """
        WITH waiting AS (
            SELECT (c ->> 'id')::uuid AS id
              FROM invoicing.pending_charges p, jsonb_array_elements(p.charges) c)
        SELECT o.aggregate_id, o.routing_key, c ->> 'id' FROM subscriptions.outbox o,
               jsonb_array_elements(
                   convert_from(o.body, 'UTF8')::jsonb -> 'data' -> 'charges') c
         WHERE o.routing_key LIKE 'subscription.%'
           AND NOT EXISTS (SELECT FROM invoicing.invoice_lines l
                            WHERE l.charge_id = (c ->> 'id')::uuid)
           AND NOT EXISTS (SELECT FROM waiting w WHERE w.id = (c ->> 'id')::uuid)
    """,
    "a charge that is asked for on two invoices": """
        SELECT l.charge_id, l.subscription_id, count(*) FROM invoicing.invoice_lines l
          JOIN invoicing.invoices i ON i.id = l.invoice_id
         WHERE i.status <> 'void' AND l.charge_id IS NOT NULL
         GROUP BY 1, 2 HAVING count(*) > 1
    """,
    "what is owed and what is asked for differ": """
        SELECT i.id, i.number, i.total - i.credit_applied - i.amount_reduced - i.amount_paid,
               o.amount_due, p.amount
          FROM invoicing.invoices i
          JOIN payments.owed_invoices o ON o.invoice_id = i.id
          LEFT JOIN payments.payments p ON p.invoice_id = i.id
         WHERE i.status = 'open' AND (
               o.amount_due <> i.total - i.credit_applied - i.amount_reduced - i.amount_paid
            OR (p.status IN ('created', 'failed') AND p.amount <> o.amount_due))
    """,
    "what the ledger expects and what is owed differ": """
        SELECT currency, coalesce(l.amount, 0), coalesce(i.amount, 0) FROM (
            SELECT currency, sum(amount) AS amount FROM payments.ledger_entries
             WHERE ledger_account = 'receivable' GROUP BY currency) l
          FULL JOIN (
            SELECT currency, sum(total - credit_applied - amount_reduced - amount_paid) AS amount
              FROM invoicing.invoices WHERE status IN ('open', 'uncollectible')
             GROUP BY currency) i USING (currency)
         WHERE coalesce(l.amount, 0) <> coalesce(i.amount, 0)
    """,
    # ---- what waits happens at its time -----------------------------------------------------
    "what was due was not done": """
        SELECT s.id, s.status, s.due_at FROM subscriptions.subscriptions s
          LEFT JOIN subscriptions.account_clocks c USING (account_id)
         WHERE s.parked_at IS NULL AND s.due_at <= coalesce(c.now, now() - interval '2 minutes')
    """,
    "an end that waits longer than it was to": """
        SELECT s.id, s.status, e ->> 'at' FROM subscriptions.subscriptions s
          CROSS JOIN jsonb_array_elements(s.agenda) e
          LEFT JOIN subscriptions.account_clocks c USING (account_id)
         WHERE e ->> 'kind' = 'cancel' AND s.status NOT IN ('canceled', 'incomplete_expired')
           AND (s.status <> 'incomplete' OR e ->> 'at' IS NOT NULL)
           AND coalesce((e ->> 'at')::timestamptz, s.period_end)
               <= coalesce(c.now, now() - interval '2 minutes')
    """,
    # ---- usage is billed once ---------------------------------------------------------------
    # What came after the running period began is billed with the next one, of whatever window.
    "usage of a window that was billed other than it is": """
        SELECT w.subscription_id, w.window_start, w.used, coalesce(sum(e.value), 0)
          FROM subscriptions.usage_windows w
          JOIN subscriptions.prices p ON p.id = w.price_id AND p.aggregation = 'sum'
          JOIN subscriptions.subscriptions s ON s.id = w.subscription_id
          LEFT JOIN subscriptions.usage_events e ON e.subscription_id = w.subscription_id
               AND e.meter_id = p.meter_id AND e.at >= w.window_start AND e.at < w.window_end
               AND NOT e.voided
         WHERE s.usage_due_at IS NULL
         GROUP BY w.subscription_id, w.item_id, w.window_start, w.window_end, p.id, s.id
        HAVING greatest(coalesce(sum(e.value), 0), 0) <> w.used
           AND NOT (
               s.status IN ('active', 'past_due')
               AND EXISTS (SELECT FROM jsonb_array_elements(s.items) i
                             JOIN subscriptions.prices q ON q.id = (i ->> 'price_id')::uuid
                            WHERE q.meter_id IS NOT NULL)
               AND (coalesce(max(e.received_at) >= s.period_start, false)
                    OR EXISTS (SELECT FROM subscriptions.usage_events v
                                WHERE v.subscription_id = s.id AND v.meter_id = p.meter_id
                                  AND v.at >= w.window_start AND v.at < w.window_end
                                  AND v.voided)))
    """,
    "usage that was taken and is billed twice, or never": """
        SELECT e.subscription_id, e.id, e.at, w.windows FROM subscriptions.usage_events e
          JOIN subscriptions.subscriptions s ON s.id = e.subscription_id
          CROSS JOIN LATERAL (
              SELECT count(*) AS windows FROM subscriptions.usage_windows w
                JOIN subscriptions.prices p ON p.id = w.price_id
               WHERE w.subscription_id = e.subscription_id AND p.meter_id = e.meter_id
                 AND e.at >= w.window_start AND e.at < w.window_end) w
         WHERE NOT e.voided AND w.windows <> 1
           AND NOT (w.windows = 0 AND (
               coalesce(e.at < s.trial_end, false)
               OR (s.status IN ('active', 'past_due')
                   AND EXISTS (
                       SELECT FROM jsonb_array_elements(s.items) i
                         JOIN subscriptions.prices q ON q.id = (i ->> 'price_id')::uuid
                        WHERE q.meter_id = e.meter_id
                          AND e.at >= coalesce(
                              (i ->> 'metered_from')::timestamptz, s.period_start)))))
    """,
}
#: What goes back by itself, at most (`$1`, `$2`: charges, and from when) and at least (`$3`, `$4`).
WORTH = f"""
    WITH at_most AS (SELECT * FROM unnest($1::uuid[], $2::timestamptz[]) AS t(charge_id, since)),
    at_least AS (SELECT * FROM unnest($3::uuid[], $4::timestamptz[]) AS t(charge_id, since)),
    waits AS (
        SELECT (t ->> 'charge_id')::uuid AS charge_id
          FROM invoicing.pending_charges p, jsonb_array_elements(p.take_backs) t
         WHERE p.invoice_id IS NULL
         UNION ALL
        SELECT (t ->> 'charge_id')::uuid FROM invoicing.invoices i,
               jsonb_array_elements(i.basis) b, jsonb_array_elements(b -> 'take_backs') t),
    back AS (SELECT line_id, sum(net) AS net, coalesce(sum(net) FILTER (WHERE by_itself), 0) AS own
               FROM ({BACK}) b GROUP BY line_id)
    SELECT l.invoice_id, l.position, l.net, b.own, b.net, m.since, n.since
      FROM invoicing.invoice_lines l
      JOIN invoicing.invoices i ON i.id = l.invoice_id
      LEFT JOIN back b ON b.line_id = l.id
      LEFT JOIN at_most m ON m.charge_id = l.charge_id
      LEFT JOIN at_least n ON n.charge_id = l.charge_id
     WHERE l.net > 0 AND i.status <> 'draft' AND l.period_end > l.period_start AND (
           -- Of an inclusive price the gross is shared and the net rounded on its own, twice.
           b.own > CASE WHEN m.since IS NULL THEN 0
                   ELSE 1 + (l.tax_behavior = 'inclusive')::int + l.net * extract(
                   epoch FROM l.period_end - greatest(m.since, l.period_start)) / extract(
                   epoch FROM l.period_end - l.period_start) END
        OR (n.since IS NOT NULL AND coalesce(b.net, 0) < l.net * extract(
                   epoch FROM l.period_end - greatest(n.since, l.period_start)) / extract(
                   epoch FROM l.period_end - l.period_start)
                   - 1 - (l.tax_behavior = 'inclusive')::int
            AND i.status IN ('open', 'paid') AND i.amount_unnoted = 0 AND i.amount_withheld = 0
            AND i.amount_disputed = 0
            AND NOT EXISTS (SELECT FROM waits w WHERE w.charge_id = l.charge_id)))
"""  # noqa: S608  (ours)

LIVES = f"""
SELECT o.aggregate_id::text AS id, o.sequence, o.routing_key,
       convert_from(o.body, 'UTF8') AS body
  FROM subscriptions.outbox o
 WHERE o.routing_key LIKE 'subscription.%' AND o.exchange = 'billing.events'
   AND o.account_id <> '{ACCOUNT}'
 ORDER BY o.aggregate_id, o.sequence
"""  # noqa: S608  (ours)
NOW = """
SELECT s.id::text, s.status, s.agenda, s.pending_change FROM subscriptions.subscriptions s
"""
#: By the event that said that it is paid, the change that waited for that.
PAID_CHANGES = """
SELECT o.id::text, convert_from(o.body, 'UTF8')::jsonb -> 'data' ->> 'change_id'
  FROM invoicing.outbox o WHERE o.routing_key = 'invoice.paid'
   AND convert_from(o.body, 'UTF8')::jsonb -> 'data' ->> 'change_id' IS NOT NULL
"""
COVERING = {"recurring", "addon", "proration_charge"}
#: What opens a period, whatever was before.
OPENING = {"started", "trial_ended", "renewed", "resumed"}
FINAL = {"canceled", "incomplete_expired"}
#: Ended by dunning alone: if money brings it back, what waited goes on waiting.
GIVEN_UP = "payment_not_received"


@dataclass
class Charged:
    """A charge, and until when it covers its place."""

    id: str
    place: str | None
    amount: int
    starts: datetime
    ends: datetime
    until: datetime
    is_taken_back: bool = False


@dataclass
class Waiting:
    """What was reported to wait: at which instants."""

    cancel: datetime | None = None
    pause: datetime | None = None
    changes: list[datetime] = field(default_factory=list)

    def note(self, name: str, data: dict[str, Any]) -> None:
        """Something was put off, or will not happen after all."""
        match name:
            case "cancellation_scheduled":
                self.cancel = _at(data["effective_at"])
            case "cancellation_withdrawn":
                self.cancel = None
            case "pause_scheduled":
                self.pause = _at(data["effective_at"])
            case "pause_withdrawn" | "paused":
                self.pause = None
            case "change_scheduled":
                self.changes.append(_at(data["effective_at"]))
            case "change_withdrawn":
                self.changes = []  # it does not say which

    def moved(self, before: datetime, after: datetime) -> None:
        """What waits for the period's end waits for another one."""
        self.cancel = after if self.cancel == before else self.cancel
        self.pause = after if self.pause == before else self.pause
        self.changes = [after if at == before else at for at in self.changes]


@dataclass
class Life:
    """One subscription, replayed from what it reported."""

    id: str
    #: By price: whose it is, None for the plan's own …
    addon_of: dict[str, str | None]
    #: … and which are paid for before their period.
    ahead: set[str]
    paid_changes: dict[str, str]
    charges: dict[str, Charged] = field(default_factory=dict)
    #: From when on each charge is taken back.
    taken: dict[str, datetime] = field(default_factory=dict)
    waiting: Waiting = field(default_factory=Waiting)
    #: A change that waits to be paid: its id, and its bill.
    pending: tuple[str, dict[str, Any]] | None = None
    starts: datetime | None = None
    ends: datetime | None = None
    found: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def wrong(self, rule: str, *what: object) -> None:
        self.found.append((rule, (self.id, *what)))

    def replay(self, name: str, sequence: int, body: dict[str, Any]) -> None:
        """One event more."""
        data = body["data"]
        match name:
            case "change_pending":
                self.pending = (data["change_id"], data)
                return
            case "change_lapsed":
                self.pending = None
            case "canceled":
                self._end(data, sequence)
            case "changed":
                self._changed(body)
            case "trial_changed" if self.ends is not None:
                self.waiting.moved(self.ends, _at(data["trial_end"]))
                self.ends = _at(data["trial_end"])
            case _:
                self.waiting.note(name, data)
        if "charges" not in data:
            return
        self._open(name, data, sequence)
        self._bill(data, sequence)
        if name in OPENING or name == "changed":
            self._see_that_it_is_covered(name, data, sequence)

    def _end(self, data: dict[str, Any], sequence: int) -> None:
        at, cancel = _at(data["effective_at"]), self.waiting.cancel
        if cancel is not None and at > cancel:
            self.wrong("an end that came at another time", sequence, cancel, at)
        if data.get("reason") != GIVEN_UP:
            self.waiting = Waiting()

    def _changed(self, body: dict[str, Any]) -> None:
        if self.pending and self.paid_changes.get(body.get("causationid", "")) == self.pending[0]:
            bill, self.pending = self.pending[1], None
            self._bill(bill, body["sequence"])
        now = _at(body["time"])
        self.waiting.changes = [one for one in self.waiting.changes if one > now]

    def _open(self, name: str, data: dict[str, Any], sequence: int) -> None:
        """Follow the bounds of its periods, and see that what was to happen before did."""
        starts, ends = _at(data["period_start"]), _at(data["period_end"])
        before, self.starts, self.ends = (self.starts, self.ends), starts, ends
        if before[1] is None or before == (starts, ends):
            return
        if name == "changed":  # a new rhythm from now on, which takes in what waited
            self.waiting.changes = [one for one in self.waiting.changes if one != before[1]]
            self.waiting.moved(before[1], ends)
            if not data["take_backs"]:  # let be: whoever wants none has paid for both
                for charge in self.charges.values():
                    charge.until = min(charge.until, starts)
        elif name in OPENING:
            self._go_on(name, starts, sequence)

    def _go_on(self, name: str, starts: datetime, sequence: int) -> None:
        waits = self.waiting
        for what, at in (("end", waits.cancel), ("rest", waits.pause)):
            # Money that comes at the very instant at which it is to end may be first.
            if at is not None and (at < starts or (at == starts and name == "renewed")):
                self.wrong("it went on beyond what was to happen", sequence, what, at, starts)
        waits.changes = [one for one in waits.changes if one > starts]
        if name == "resumed":
            waits.pause = None

    def _bill(self, data: dict[str, Any], sequence: int) -> None:
        new = [self._charged(charge) for charge in data["charges"]]
        self.charges |= {charge.id: charge for charge in new}
        for one in data["take_backs"]:
            charge, since = self.charges.get(one["charge_id"]), _at(one["starts_at"])
            if charge is None:
                self.wrong("taken back, and never billed", sequence, one["charge_id"])
                continue
            if charge.is_taken_back:
                self.wrong("taken back twice", sequence, charge.id)
            if not charge.starts <= since <= charge.ends:
                self.wrong("taken back outside of its period", sequence, charge.id, since)
            charge.is_taken_back = True
            charge.until = min(charge.until, since)
            self.taken[charge.id] = since
        for charge in new:
            for other in self.charges.values():
                if (
                    charge.place is not None
                    and other is not charge
                    and other.place == charge.place
                    and max(other.starts, charge.starts) < min(other.until, charge.until)
                ):
                    self.wrong("charged twice for one time", sequence, charge.id, other.id)

    def _charged(self, charge: dict[str, Any]) -> Charged:
        covers = charge["kind"] in COVERING
        place = (self.addon_of[charge["price_id"]] or "plan") if covers else None
        starts, ends = _at(charge["period_start"]), _at(charge["period_end"])
        return Charged(charge["id"], place, charge["amount"], starts, ends, ends)

    def _see_that_it_is_covered(self, name: str, data: dict[str, Any], sequence: int) -> None:
        if data["price_id"] not in self.ahead or data.get("status") == "trialing":
            return
        starts, ends = _at(data["period_start"]), _at(data["period_end"])
        if name == "changed" and not any(
            _at(charge["period_start"]) == starts and charge["kind"] == "recurring"
            for charge in data["charges"]
        ):
            return
        mine = [charge for charge in self.charges.values() if charge.place == "plan"]
        if not any(one.starts <= starts and one.until >= ends for one in mine):
            self.wrong("a period that nothing was charged for", sequence, starts)

    def compare(self, status: str, agenda: list[dict[str, Any]], *, has_pending: bool) -> None:
        """What was reported to wait, and neither happened nor was withdrawn, waits."""
        if status in FINAL:
            return
        kinds = {entry["kind"] for entry in agenda}
        waits = self.waiting
        gone = [
            name
            for name, is_reported, stored in (
                ("an end", waits.cancel is not None, {"cancel"}),
                ("a rest", waits.pause is not None, {"pause"}),
                ("a change", bool(waits.changes), {"change", "price_move"}),
            )
            if is_reported and not kinds & stored
        ]
        if self.pending is not None and not has_pending:
            gone.append("a change that is to be paid")
        for name in gone:
            self.wrong("what was to happen is forgotten", name)


@dataclass
class Replayed:
    """What all lives together say."""

    found: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    #: By charge, from when on it is taken back …
    taken: dict[str, datetime] = field(default_factory=dict)
    #: … also where that still waits for a payment.
    may_be_taken: dict[str, datetime] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)


async def broken(connection: Any, foretold: Iterable[Foretold]) -> dict[str, list[tuple[Any, ...]]]:
    """What does not hold, by rule."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for rule, sql in RULES.items():
        found[rule] += [tuple(row) for row in await connection.fetch(sql, timeout=120)]
    replayed = await _replay(connection)
    for rule, told in replayed.found:
        found[rule].append(told)
    most, least = replayed.may_be_taken | replayed.taken, replayed.taken
    rows = await connection.fetch(
        WORTH, list(most), list(most.values()), list(least), list(least.values()), timeout=120
    )
    found["what went back of a line is not the time that was taken back"] += map(tuple, rows)
    found["usage is charged other than its price says"] += await _usage(connection, replayed)
    for one in foretold:
        if (differs := await _compare(connection, one)) is not None:
            found["a preview is not what came"].append(differs)
    return found


async def _replay(connection: Any) -> Replayed:
    rows = await connection.fetch("SELECT id::text, addon_id::text, type FROM subscriptions.prices")
    addon_of = {row["id"]: row["addon_id"] for row in rows}
    ahead = {row["id"] for row in rows if row["type"] not in {"metered", "one_off"}}
    paid_changes = dict(await connection.fetch(PAID_CHANGES))
    now = {row["id"]: row for row in await connection.fetch(NOW)}
    replayed = Replayed()
    async for life in _lives(connection, addon_of, ahead, paid_changes):
        if (row := now.get(life.id)) is not None:
            agenda = json.loads(row["agenda"])
            life.compare(row["status"], agenda, has_pending=row["pending_change"] is not None)
        replayed.found += life.found
        replayed.taken |= life.taken
        replayed.amounts |= {charge.id: charge.amount for charge in life.charges.values()}
        if life.pending is not None:
            for one in life.pending[1]["take_backs"]:
                replayed.may_be_taken[one["charge_id"]] = _at(one["starts_at"])
    return replayed


async def _lives(
    connection: Any, addon_of: Any, ahead: set[str], paid_changes: dict[str, str]
) -> AsyncIterator[Life]:
    life: Life | None = None
    async with connection.transaction():
        async for row in connection.cursor(LIVES, prefetch=500):
            if life is None or life.id != row["id"]:
                if life is not None:
                    yield life
                life = Life(row["id"], addon_of, ahead, paid_changes)
            name = row["routing_key"].partition(".")[2]
            life.replay(name, row["sequence"], json.loads(row["body"]))
    if life is not None:
        yield life


# ---- usage ----------------------------------------------------------------------------------

WINDOWS = """
SELECT w.subscription_id, w.window_start, w.used, w.billed, w.charge_ids::text[] AS charges,
       p.unit_amount, p.tiers
  FROM subscriptions.usage_windows w JOIN subscriptions.prices p ON p.id = w.price_id
 WHERE p.aggregation = 'sum'
"""


async def _usage(connection: Any, replayed: Replayed) -> list[tuple[Any, ...]]:
    """Each window costs what its price says of it, and its charges come to that."""
    found: list[tuple[Any, ...]] = []
    for row in await connection.fetch(WINDOWS):
        worth = _cost(row["used"], row["unit_amount"], json.loads(row["tiers"] or "[]"))
        charged = sum(
            replayed.amounts.get(charge, 0)
            for charge in row["charges"]
            if charge not in replayed.taken
        )
        if not worth == row["billed"] == charged:
            told = f"costs {worth}, noted {row['billed']}, charged {charged}"
            found.append((row["subscription_id"], row["window_start"], row["used"], told))
    return found


def _cost(used: Decimal, unit_amount: Decimal | None, tiers: list[dict[str, Any]]) -> int:
    exact, low = Fraction(0), Fraction(0)
    if not tiers:
        exact = Fraction(used) * Fraction(unit_amount or 0)
    for tier in tiers:
        high = Fraction(used) if tier["up_to"] is None else min(Fraction(used), tier["up_to"])
        if Fraction(used) <= low:
            break
        exact += (high - low) * Fraction(tier["unit_amount"]) + Fraction(tier["flat_amount"])
        low = high
    return int(exact + Fraction(1, 2))


# ---- previews -------------------------------------------------------------------------------

DONE = """
SELECT o.id, o.account_id, o.routing_key, o.body, t.processed_at FROM subscriptions.outbox o
  LEFT JOIN invoicing.inbox t ON t.event_id = o.id AND t.consumer = 'invoicing.bill_subscription'
 WHERE o.aggregate_id = $1::text::uuid AND o.sequence > $2 AND o.sequence <= $3
   AND o.routing_key LIKE 'subscription.%'
 ORDER BY o.sequence
"""
#: What else invoicing heard of the account meanwhile.
MEANWHILE = """
SELECT count(*) FROM invoicing.inbox t
  JOIN (SELECT id, account_id FROM subscriptions.outbox
         WHERE routing_key NOT LIKE 'test_clock.%'
         UNION ALL SELECT id, account_id FROM payments.outbox
         UNION ALL SELECT id, account_id FROM auth.outbox) o ON o.id = t.event_id
 WHERE o.account_id = $1 AND t.processed_at BETWEEN $2 AND $3 AND NOT t.event_id = ANY($4)
   AND t.consumer <> 'invoicing.follow_test_clock'
"""
MADE = """
SELECT DISTINCT aggregate_id, split_part(routing_key, '.', 1) AS kind FROM invoicing.outbox
 WHERE convert_from(body, 'UTF8')::jsonb ->> 'causationid' = ANY($1::text[])
   AND routing_key IN ('invoice.finalized', 'credit_note.issued')
"""
LINES = """
SELECT kind, description, price_id::text AS price, amount, discount, net, period_start, period_end
  FROM invoicing.invoice_lines WHERE invoice_id = $1 ORDER BY position
"""
#: What waits as a draft is computed again when it is finalized, by what holds then.
WAITED = """
SELECT EXISTS (SELECT FROM invoicing.outbox
                WHERE aggregate_id = ANY($1) AND routing_key = 'invoice.drafted')
"""
TIME_ALONE = {"subscription.renewed", "subscription.trial_ended"}


async def _compare(connection: Any, one: Foretold) -> tuple[Any, ...] | None:
    """What came of a preview, unless something came in between: then it was another question."""
    events = await connection.fetch(DONE, one.subscription, one.before, one.after)
    if not events or not await _is_alone(connection, one, events):
        return None
    made = await connection.fetch(MADE, [str(row["id"]) for row in events])
    invoices = [row["aggregate_id"] for row in made if row["kind"] == "invoice"]
    notes = [row["aggregate_id"] for row in made if row["kind"] == "credit_note"]
    if await connection.fetchval(WAITED, invoices):
        return None
    said, came = _said(one.invoice), await _came(connection, invoices)
    if one.what == "renewal":
        if _depends_on_others(one) or not invoices:
            return None
        for bill in (said, came):
            bill.pop("credit", None)
    else:
        said["notes"] = sorted(map(_note, one.credit_notes))
        came["notes"] = await _notes(connection, notes)
    names = [name for name in said.keys() | came.keys() if said.get(name) != came.get(name)]
    if not names:
        return None
    told = "; ".join(f"{name}: said {said.get(name)}, came {came.get(name)}" for name in names)
    return (one.subscription, one.what, one.before, told[:1500])


async def _is_alone(connection: Any, one: Foretold, events: list[Any]) -> bool:
    """Whether these are what was asked for, and invoicing heard of nothing else meanwhile."""
    if any(row["processed_at"] is None for row in events):
        return False
    if len({json.loads(row["body"]).get("correlationid") for row in events}) > 1:
        return False
    if one.what == "renewal":
        return events[0]["routing_key"] in TIME_ALONE
    asked_at = datetime.fromtimestamp(one.asked_at, UTC)
    last = max(row["processed_at"] for row in events)
    ids = [row["id"] for row in events]
    account = events[0]["account_id"]
    return not await connection.fetchval(MEANWHILE, account, asked_at, last, ids)


def _depends_on_others(one: Foretold) -> bool:
    """Whether an invoice ahead has what becomes of others until then."""
    invoice = one.invoice
    if invoice is None or invoice["subscription_ids"] or one.credit_notes:
        return True
    return any(line["kind"] == "proration_credit" for line in invoice["lines"])


def _said(invoice: Any) -> dict[str, Any]:
    if invoice is None:
        return {}
    lines = [
        (
            *(line["kind"], line["description"], line["price_id"]),
            *(line[name]["amount"] for name in ("amount", "discount", "net")),
            *(_at(line[name]) for name in ("period_start", "period_end")),
        )
        for line in invoice["lines"]
    ]
    sums = {name: invoice[name]["amount"] for name in ("net", "tax", "total")}
    return {"lines": lines, **sums, "credit": invoice["credit_applied"]["amount"]}


async def _came(connection: Any, invoices: list[Any]) -> dict[str, Any]:
    if not invoices:
        return {}
    if len(invoices) > 1:
        return {"invoices": len(invoices)}
    lines = [tuple(row) for row in await connection.fetch(LINES, invoices[0])]
    sums = await connection.fetchrow(
        "SELECT net, tax, total, credit_applied AS credit FROM invoicing.invoices WHERE id = $1",
        invoices[0],
    )
    return {"lines": lines, **dict(sums)}


def _note(note: Any) -> tuple[Any, ...]:
    amounts = ("net", "tax", "total", "credit", "refund")
    return (str(note["invoice_id"]), *(note[name]["amount"] for name in amounts))


async def _notes(connection: Any, notes: list[Any]) -> list[tuple[Any, ...]]:
    rows = await connection.fetch(
        "SELECT invoice_id::text, net, tax, total, credit, refund FROM invoicing.credit_notes"
        " WHERE id = ANY($1)",
        notes,
    )
    return sorted(tuple(row) for row in rows)


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)
