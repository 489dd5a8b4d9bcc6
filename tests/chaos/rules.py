"""What must be nothing when the system is at rest, and what must never be, as SQL.

A violation's row names an aggregate by its id where it can: its story is told by that
(tests/chaos/story.py). `{s}` is a service's schema.
"""

from infra.environment import SERVICES
from tests.chaos.poison import ACCOUNT, MALFORMED

#: Per service: events that wait to be published, that came too early, that were given up.
PATH = {
    "outbox rows not sent": "SELECT count(*) FROM {s}.outbox WHERE sent_at IS NULL",
    "events refused by the broker": (
        "SELECT count(*) FROM {s}.outbox WHERE refused_at IS NOT NULL"
    ),
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
    "token orders paid and not granted": """
        SELECT count(*) FROM subscriptions.token_orders o
          JOIN invoicing.invoices i ON i.id = o.id
         WHERE i.status = 'paid' AND o.status = 'placed'
    """,
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
        SELECT i.id, i.number FROM payments.payments p
          JOIN invoicing.invoices i ON i.id = p.invoice_id
         WHERE p.status = 'succeeded' AND i.status <> 'paid' AND p.refunded < p.amount
    """,
    "a paid invoice whose money nobody has": """
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN payments.payments p ON p.invoice_id = i.id
         WHERE i.status = 'paid' AND p.status IS DISTINCT FROM 'succeeded'
           AND EXISTS (SELECT FROM invoicing.received_payments r
                        WHERE r.invoice_id = i.id AND r.means = 'provider' AND r.applied > 0)
    """,
    "an invoice and the money received for it differ": """
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN invoicing.received_payments r ON r.invoice_id = i.id
         GROUP BY i.id, i.number, i.amount_paid
        HAVING coalesce(sum(r.applied), 0) <> i.amount_paid
    """,
    "a finalized invoice that nobody collects": """
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN payments.payments p ON p.invoice_id = i.id
         WHERE i.status = 'open' AND i.total > i.credit_applied + i.amount_reduced
           AND i.collect_automatically AND p.id IS NULL
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
        SELECT l.subscription_id, i.billing_reason, l.period_start
          FROM invoicing.invoices i JOIN invoicing.invoice_lines l ON l.invoice_id = i.id
         WHERE i.billing_reason IN ('subscription_start', 'subscription_cycle')
           AND l.kind IN ('recurring', 'addon') AND l.amount > 0 AND i.status <> 'void'
         GROUP BY 1, 2, 3 HAVING count(DISTINCT i.id) > 1
    """,
    "an invoice that is shared by others than its lines bill": """
        SELECT i.id, i.number FROM invoicing.invoices i
          JOIN invoicing.invoice_lines l ON l.invoice_id = i.id
         WHERE i.subscription_ids <> '{}' AND l.subscription_id IS NOT NULL
         GROUP BY i.id, i.number, i.subscription_ids
        HAVING NOT (array_agg(DISTINCT l.subscription_id) <@ i.subscription_ids
                    AND i.subscription_ids <@ array_agg(DISTINCT l.subscription_id))
    """,
    "a subscription that is paid in advance, began and was not billed": """
        SELECT s.id FROM subscriptions.subscriptions s
          JOIN subscriptions.prices p ON p.id = s.price_id AND p.type <> 'metered'
         WHERE (s.trial_end IS NULL OR s.period_start >= s.trial_end)
           -- Who came to that price by a change may have been charged nothing for it yet.
           AND NOT EXISTS (SELECT FROM subscriptions.outbox o WHERE o.aggregate_id = s.id
                              AND o.routing_key = 'subscription.changed')
           AND NOT EXISTS (SELECT FROM invoicing.invoice_lines l WHERE l.subscription_id = s.id)
           AND NOT EXISTS (SELECT FROM invoicing.invoices i WHERE i.subscription_id = s.id)
    """,
    "a subscription that was set aside": """
        SELECT id, parked_reason FROM subscriptions.subscriptions WHERE parked_at IS NOT NULL
    """,
    "a period billed twice, as its events say": """
        SELECT subscription_id, reason, period_start FROM subscriptions.billed_periods
         GROUP BY 1, 2, 3 HAVING count(*) > 1
    """,
    "refunds and what their payment says of them differ": """
        SELECT p.id, p.refunded, sum(r.amount) FROM payments.payments p
          LEFT JOIN payments.refunds r ON r.payment_id = p.id AND r.status = 'succeeded'
         GROUP BY p.id, p.refunded
        HAVING coalesce(sum(r.amount), 0) <> p.refunded OR p.refunded > p.amount
    """,
    "a credit note whose refund nobody makes": """
        SELECT n.id, n.invoice_id, n.refund FROM invoicing.credit_notes n
          LEFT JOIN payments.refunds r ON r.credit_note_id = n.id
         WHERE n.refund > 0 GROUP BY n.id, n.invoice_id, n.refund
        HAVING coalesce(sum(r.amount), 0) <> n.refund
    """,
    "an account's credit and its entries differ": """
        SELECT c.account_id, c.currency, c.balance FROM invoicing.account_credits c
          LEFT JOIN invoicing.account_credit_entries e
               ON e.account_id = c.account_id AND e.currency = c.currency
         GROUP BY c.account_id, c.currency, c.balance
        HAVING coalesce(sum(e.amount), 0) <> c.balance OR c.balance < 0
    """,
    "account credit that paid an invoice twice, or not as it says": """
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN invoicing.account_credit_entries e
               ON e.invoice_id = i.id AND e.kind = 'applied'
         GROUP BY i.id, i.number, i.credit_applied
        HAVING coalesce(sum(e.amount), 0) <> -i.credit_applied
    """,
    "an invoice line that does not say why": """
        SELECT invoice_id, position FROM invoicing.invoice_lines
         WHERE why = '{}'
            OR NOT why ? CASE WHEN takes_back IS NULL THEN 'tax' ELSE 'taken_back' END
    """,
    "an invoice and the lines on it differ": """
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN invoicing.invoice_lines l ON l.invoice_id = i.id
         GROUP BY i.id, i.number, i.subtotal, i.net
        HAVING coalesce(sum(l.subtotal), 0) <> i.subtotal OR coalesce(sum(l.net), 0) <> i.net
    """,
    "what credit notes took back is other than their invoice says": """
        SELECT i.id, i.number FROM invoicing.invoices i
          LEFT JOIN invoicing.credit_notes n ON n.invoice_id = i.id
         GROUP BY i.id, i.number, i.amount_credited, i.amount_refunded, i.amount_covered
        HAVING coalesce(sum(n.total), 0) <> i.amount_credited
            OR coalesce(sum(n.refund), 0) <> i.amount_refunded
            OR coalesce(sum(n.returned_before), 0) <> i.amount_covered
    """,
    "money that went back is counted other than it went": """
        SELECT i.id, i.number, i.amount_returned FROM invoicing.invoices i
          LEFT JOIN (
            SELECT invoice_id, amount FROM payments.refunds
             WHERE status = 'succeeded' AND reason <> 'surplus'
             UNION ALL
            SELECT invoice_id, amount FROM payments.disputes WHERE status = 'lost'
          ) b ON b.invoice_id = i.id
         GROUP BY i.id, i.number, i.amount_returned
        HAVING coalesce(sum(b.amount), 0) <> i.amount_returned
    """,
    "a grant of tokens and its entries differ": """
        SELECT g.id, g.remaining FROM subscriptions.token_grants g
          LEFT JOIN subscriptions.token_entries e ON e.grant_id = g.id
         GROUP BY g.id, g.remaining
        HAVING coalesce(sum(e.amount), 0) <> g.remaining OR g.remaining < 0
    """,
    "a token order that was granted twice": """
        SELECT order_id FROM subscriptions.token_grants WHERE order_id IS NOT NULL
         GROUP BY order_id HAVING count(*) > 1
    """,
    "a coupon and its redemptions differ": """
        SELECT c.code, c.redeemed, count(r.id) FROM subscriptions.coupons c
          LEFT JOIN subscriptions.redemptions r ON r.coupon_id = c.id
         GROUP BY c.id, c.code, c.redeemed HAVING count(r.id) <> c.redeemed
    """,
    "a promotion code and its redemptions differ": """
        SELECT p.code, p.redeemed, count(r.id) FROM subscriptions.promotion_codes p
          LEFT JOIN subscriptions.redemptions r ON r.promotion_code_id = p.id
         GROUP BY p.id, p.code, p.redeemed HAVING count(r.id) <> p.redeemed
    """,
    "usage that is counted other than it came": """
        SELECT b.subscription_id, b.bucket_start, b.total, sum(e.value)
          FROM subscriptions.usage_buckets b
          LEFT JOIN subscriptions.usage_events e ON e.subscription_id = b.subscription_id
               AND e.meter_id = b.meter_id AND e.bucket_start = b.bucket_start AND NOT e.voided
         GROUP BY b.subscription_id, b.meter_id, b.bucket_start, b.total, b.count
        HAVING coalesce(sum(e.value), 0) <> b.total OR count(e.id) <> b.count
    """,
    "something of one account that hangs on another's": """
        SELECT i.id FROM invoicing.invoices i
          JOIN subscriptions.subscriptions s ON s.id = i.subscription_id
         WHERE s.account_id <> i.account_id
         UNION ALL
        SELECT p.invoice_id FROM payments.payments p
          JOIN invoicing.invoices i ON i.id = p.invoice_id WHERE p.account_id <> i.account_id
         UNION ALL
        SELECT a.invoice_id FROM payments.attempts a
          JOIN payments.payments p ON p.id = a.payment_id
          JOIN payments.payment_methods m ON m.id = a.payment_method_id
         WHERE a.account_id <> p.account_id OR m.account_id <> p.account_id
         UNION ALL
        SELECT n.invoice_id FROM invoicing.credit_notes n
          JOIN invoicing.invoices i ON i.id = n.invoice_id WHERE n.account_id <> i.account_id
         UNION ALL
        SELECT r.invoice_id FROM payments.refunds r
          JOIN payments.payments p ON p.id = r.payment_id WHERE r.account_id <> p.account_id
    """,
}

ALL_EVENTS = " UNION ALL ".join(
    f"SELECT id, routing_key, aggregate_id, account_id, sequence, created_at FROM {s}.outbox"  # noqa: S608  (names are ours)
    f" WHERE exchange = 'billing.events' AND account_id <> '{ACCOUNT}'"
    for s in SERVICES
)
ALL_TAKEN = " UNION ALL ".join(
    f"SELECT consumer, event_id, processed_at FROM {s}.inbox WHERE processed_at IS NOT NULL"  # noqa: S608  (names are ours)
    for s in SERVICES
)

#: What happens to one aggregate at most once, and what nothing of its kind follows.
ONCE = (
    "subscription.started",
    "invoice.finalized",
    "invoice.paid",
    "invoice.voided",
    "payment.succeeded",
    "token_order.placed",
    "account.registered",
)
EDGES = {
    "what happens once has happened twice": f"""
        SELECT aggregate_id, routing_key, count(*) FROM ({ALL_EVENTS}) e
         WHERE routing_key = ANY(ARRAY{list(ONCE)})
         GROUP BY 1, 2 HAVING count(*) > 1
    """,  # noqa: S608  (names are ours)
    "something happened after the end": f"""
        SELECT late.aggregate_id, last.routing_key, late.routing_key
          FROM ({ALL_EVENTS}) late JOIN ({ALL_EVENTS}) last USING (aggregate_id)
         WHERE last.routing_key
               IN ('subscription.canceled', 'subscription.expired', 'invoice.voided')
           AND late.sequence = last.sequence + 1
           AND split_part(late.routing_key, '.', 1) = split_part(last.routing_key, '.', 1)
           -- Usage that was late is billed after an end. Money that had come in time reinstates a
           -- subscription. What only the next release reports is of no account. Nothing else may
           -- follow.
           AND late.routing_key NOT LIKE '%.of_the_next_release'
           AND (last.routing_key, late.routing_key)
               <> ('subscription.canceled', 'subscription.usage_billed')
           AND NOT EXISTS (
               SELECT FROM subscriptions.outbox o
                WHERE o.id = late.id AND o.routing_key = 'subscription.activated'
                  AND convert_from(o.body, 'UTF8')::jsonb -> 'data' ->> 'previous_status'
                      IN ('canceled', 'incomplete_expired'))
    """,  # noqa: S608  (names are ours)
}

#: Every table with a version: it equals the number of events of the aggregate.
SEQUENCES = f"""
SELECT aggregate_id FROM {{s}}.outbox
 WHERE exchange = 'billing.events' AND routing_key <> 'test_clock.reported'
   AND account_id <> '{ACCOUNT}'
 GROUP BY aggregate_id, split_part(routing_key, '.', 1)
HAVING min(sequence) <> 1 OR max(sequence) <> count(*) OR count(DISTINCT sequence) <> count(*)
"""  # noqa: S608  (names are ours)
LETTERS = f"""
SELECT aggregate_id, consumer, event_name, cause, error FROM {{s}}.dead_letters
 WHERE status = 'parked' AND account_id IS DISTINCT FROM '{ACCOUNT}'
   AND body <> convert_to('{MALFORMED}', 'UTF8')
"""  # noqa: S608  (names are ours)
#: By handler and kind of event, what was sent and not taken. `$1` and `$2`: who is bound to what.
MISSING = f"""
SELECT b.consumer, count(*), min(e.created_at) FROM ({ALL_EVENTS}) e
  JOIN unnest($1::text[], $2::text[]) AS b(consumer, key) ON b.key = e.routing_key
  LEFT JOIN ({ALL_TAKEN}) t ON t.consumer = b.consumer AND t.event_id = e.id
 WHERE t.event_id IS NULL GROUP BY 1
"""  # noqa: S608  (names are ours)
GHOSTS = f"""
SELECT t.consumer, t.event_id FROM ({ALL_TAKEN}) t LEFT JOIN ({ALL_EVENTS}) e ON e.id = t.event_id
 WHERE e.id IS NULL AND NOT EXISTS (
       SELECT FROM ({
    " UNION ALL ".join(
        f"SELECT id FROM {s}.outbox WHERE account_id = '{ACCOUNT}'" for s in SERVICES
    )
}) poison WHERE poison.id = t.event_id)
"""  # noqa: S608  (names are ours)
#: Each handler counts, with its effect, what it took of an account: as much as there was. The
#: inbox could not tell, for it is what must not fail; this count is a witness beside it.
DOUBLES = f"""
WITH due AS (
    SELECT b.consumer, e.account_id, count(*) AS count FROM ({ALL_EVENTS}) e
      JOIN unnest($1::text[], $2::text[]) AS b(consumer, key) ON b.key = e.routing_key
     WHERE e.routing_key NOT LIKE 'test_clock.%' GROUP BY 1, 2)
SELECT a.account_id, a.name, a.count, coalesce(due.count, 0)
  FROM ({
    " UNION ALL ".join(
        f"SELECT * FROM {s}.clock_activity WHERE direction = 'handled'" for s in SERVICES
    )
}) a LEFT JOIN due ON due.consumer = a.name AND due.account_id = a.account_id
 WHERE a.name NOT LIKE '%.follow_test_clock' AND a.account_id <> '{ACCOUNT}'
   AND a.name <> 'subscriptions.drive_test_clock' AND a.count > coalesce(due.count, 0)
"""  # noqa: S608  (names are ours)
#: An ordered handler took an event of an aggregate before the one that precedes it. `$1`: those.
OUT_OF_ORDER = f"""
SELECT * FROM (
    SELECT e.aggregate_id, t.consumer, e.sequence, t.processed_at,
           lag(t.processed_at) OVER (
               PARTITION BY t.consumer, e.aggregate_id ORDER BY e.sequence) AS before
      FROM ({ALL_TAKEN}) t JOIN ({ALL_EVENTS}) e ON e.id = t.event_id
     WHERE t.consumer = ANY($1::text[])) log
 WHERE processed_at < before
"""  # noqa: S608  (names are ours)
