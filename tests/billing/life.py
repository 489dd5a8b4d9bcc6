"""One account's life, lived from a story in a world, beside the model."""

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg

from shared.events import Event
from shared.events.invoicing import (
    InvoiceEvent,
    InvoiceFinalized,
    InvoiceMarkedUncollectible,
    InvoicePaid,
    InvoiceVoided,
)
from shared.events.payments import (
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    DunningEvent,
    DunningExhausted,
    DunningStarted,
    PaymentSucceeded,
    RefundCreated,
)
from shared.events.subscriptions import (
    Billable,
    Charge,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionChangeLapsed,
    SubscriptionChangePending,
    SubscriptionChangeWithdrawn,
    SubscriptionEvent,
    SubscriptionExpired,
)
from tests.billing import books, model
from tests.billing.cashier import Card, Payment
from tests.billing.catalog import Catalog, catalog
from tests.billing.previewed import differences, same
from tests.billing.rules import broken_rules
from tests.billing.story import Act, Story
from tests.billing.world import Account, Client, Refused, World

VAT_NUMBERS = {"FR": "FR40303265045", "AT": "ATU13585627", "DE": "DE136695976"}


BOOKS = """
SELECT i.*, (SELECT array_agg((l.kind, l.amount, l.discount, l.net, l.period_start, l.period_end,
                               l.price_id, l.tax_code, l.tax_rate))
               FROM invoicing.invoice_lines l WHERE l.invoice_id = i.id) AS lines
  FROM invoicing.invoices i WHERE i.account_id = $1
"""
#: What another telling of the same life cannot have in common with it, or has by its place.
OF_A_ROW = {
    *("id", "account_id", "subscription_id", "billing_key", "number", "bill_to", "memo"),
    *(
        "subscription_ids",
        "gathering_key",
        "payment_method_id",
        "reissued_as",
        "taxes",
        "search_text",
        "basis",
        "withheld",
    ),
    *("seller", "legal_entity_id", "version", "dunning"),
}
OF_ITS_TIME = {
    *("issued_at", "due_at", "paid_at", "closed_at", "created_at", "finalizes_at", "reminds_at"),
    *("credit_applied", "amount_paid"),
}
NOTES = """
SELECT issued_at, total, net, tax, refund, credit, returned_before, reduction, settle, reason
  FROM invoicing.credit_notes WHERE account_id = $1
"""
CREDIT = "SELECT balance FROM invoicing.account_credits WHERE account_id = $1"

DRAFT_HOURS = 30

#: Of acts, and of stretches of time, so many are previewed.
PREVIEWED = 0.2

#: The model's names of what an invoice's row says.
COLUMNS = {
    "status": "status",
    "total": "total",
    "credit_applied": "credit_applied",
    "paid": "amount_paid",
    "brought": "amount_brought",
    "credited": "amount_credited",
    "reduced": "amount_reduced",
    "refunded": "amount_refunded",
    "moved": "amount_moved",
    "covered": "amount_covered",
    "by_hand": "amount_unnoted",
    "disputed": "amount_disputed",
    "withheld": "amount_withheld",
}


async def a_careful_entity(world: World) -> str:
    """A legal entity of the world's that looks at its invoices first."""
    if "entity" not in world.shelf:
        client = Client(world.invoicing.http, world.catalog.headers)
        made = await client.post(
            "/v1/legal-entities",
            name="Careful GmbH",
            country="DE",
            vat_id="DE136695976",
            draft_hours=DRAFT_HOURS,
        )
        world.shelf["entity"] = made["id"]
    entity: str = world.shelf["entity"]
    return entity


class Differs(AssertionError):
    """The services and the model do not agree."""


class Life:
    """Lives a story; `log` says what became of each act."""

    def __init__(self, world: World, story: Story, *, shuffle: Random | None = None) -> None:
        self.world = world
        self.story = story
        self.shuffle = shuffle
        self.subscriptions: dict[UUID, model.Subscription] = {}
        self.late = False
        self.books = books.Books(
            country=story.country,
            zone=story.zone,
            consolidated=story.invoicing == "consolidated",
            draft_hours=DRAFT_HOURS if story.invoicing == "drafts" else 0,
        )
        #: What is to be looked at once an act has had its effects.
        self.then: Callable[[], Awaitable[None]] | None = None
        #: How many bills of each subscription were compared.
        self.compared: dict[UUID, int] = defaultdict(int)
        #: What of changes that waited was reported not to happen.
        self.reported: dict[UUID, Counter[str]] = defaultdict(Counter)
        #: Events that were carried when the books were compared last.
        self.read_at = -1
        self.log: list[str] = []
        #: What is previewed and what not.
        self.chance = Random(story.seed)  # noqa: S311  (chance that is repeatable)
        self.used: list[str] = []
        #: How often each act came to what: to nothing, to a refusal, or (an empty text) was done.
        self.acts: Counter[tuple[str, str]] = Counter()

    async def live(
        self,
        *,
        steps: Callable[[datetime, datetime], Sequence[datetime]] | None = None,
        late: bool = False,
    ) -> None:
        """All of it, and a last month; raises `Differs` where it differs from the model.

        `steps` says where time stops on its way. `late`: nothing works while time passes.
        """
        self.late = late
        story = self.story
        self.catalog: Catalog = await catalog(self.world, story.catalog)
        self.prices = {one["id"]: model.Price(one) for one in self.catalog.prices.values()}
        self.account: Account = await self.world.account(
            now=story.begins,
            country=story.country,
            time_zone=story.zone,
            shuffle=self.shuffle,
            watch=self._hear,
            foresee=self._foresee,
        )
        await self._arrange_invoicing()
        for act in (*story.acts, Act(24 * 40, "wait")):
            await self._pass(timedelta(hours=act.wait), steps)
            await self._do(act)
        await self._look_at_rules()

    async def _arrange_invoicing(self) -> None:
        if self.story.invoicing == "at once":
            return
        details: dict[str, Any] = {"name": "Payer"}
        if self.story.invoicing == "consolidated":
            details["consolidated_billing"] = True
        else:
            details["legal_entity_id"] = await a_careful_entity(self.world)
        await self.account.finance.ask("PUT", "/v1/billing-details", details)

    async def _look_at_rules(self) -> None:
        charges = {
            charge.id: charge
            for one in self.subscriptions.values()
            for bill in one.bills
            for charge in bill.charges
            if charge.id is not None
        }
        broken = await broken_rules(self._of("invoicing"), self.account.id, charges)
        if broken:
            raise Differs("\n".join(broken))

    async def told(self, *, dated: bool = True) -> dict[str, Any]:
        """The account's books, without ids: the same life told again has the same.

        Where nothing worked while time passed, what was made is as if it had, but for its dates,
        and for which of its invoices what the account had in credit has paid: not `dated`.
        """
        number = {one: position for position, one in enumerate(self.subscriptions)}
        connection = self._of("invoicing")
        left_out = OF_A_ROW if dated else OF_A_ROW | OF_ITS_TIME
        invoices = []
        for row in await connection.fetch(BOOKS, self.account.id):
            facts = {name: value for name, value in row.items() if name not in left_out}
            lines = sorted(str(line) for line in facts.pop("lines"))
            of = number.get(row["subscription_id"])
            at = str(row["issued_at"]) if dated else str(row["supplied_at"])
            invoices.append([at, of, lines, sorted(facts.items())])
        notes = await connection.fetch(NOTES, self.account.id)
        return {
            "invoices": sorted(invoices, key=str),
            "credit notes": sorted(str(tuple(note)[0 if dated else 1 :]) for note in notes),
            "credit": await connection.fetchval(CREDIT, self.account.id) or 0,
        }

    def in_order(self) -> list[int | None]:
        """Which subscription each invoice is of, in the order in which they were made."""
        number = {one: position for position, one in enumerate(self.subscriptions)}
        return [
            None if one.subscription is None else number.get(one.subscription)
            for one in self.books.invoices
        ]

    def _of(self, service: str) -> asyncpg.Connection:
        return next(
            connection
            for connection, running in self.world.connections.items()
            if running.service.name == service
        )

    async def _pass(
        self,
        time: timedelta,
        steps: Callable[[datetime, datetime], Sequence[datetime]] | None,
    ) -> None:
        begins, ends = self.account.now, self.account.now + time
        if self.late and time:
            await self.account.jump(ends)
            await self.compare()
            return
        if time and self._previews():
            await self._pass_as_foretold(ends)
        for stop in steps(begins, ends) if steps else (ends,):
            await self.account.advance(stop, each=self.compare)

    # ---- previews ----------------------------------------------------------------------------

    async def _pass_as_foretold(self, ends: datetime) -> None:
        """What time bills next is what a preview says, where nothing else happens before it."""
        one = self._one(self.chance.randrange(6))
        if one is None:
            return
        preview = await self.account.staff.post(f"/v1/subscriptions/{one.id}/preview")
        told = preview["next_invoice"]
        if told is None or not told["invoice"]:
            return
        at = datetime.fromisoformat(told["at"])
        if not self.account.now < at <= ends:
            return
        begins, seen = self.account.now, len(self.account.mail.carried)
        made = len(self.books.invoices)
        await self.account.advance(at, each=self.compare)
        before = [
            event
            for event in self.account.mail.carried[seen:]
            if begins < event.occurred_at < at and event.name != "subscription.trial_will_end"
        ]
        new = self.books.invoices[made:]
        if before or not new or any(other.subscription != one.id for other in new):
            return
        await self._require_as_foretold(told, new[0])

    def _previews(self) -> bool:
        return self.chance.random() < PREVIEWED and self.story.invoicing == "at once"

    async def _foretold(
        self, one: model.Subscription, act: Awaitable[Any], **asked: Any
    ) -> Callable[[], Awaitable[None]] | None:
        """Do the act; where it is previewed before, how to compare what was made of it.

        What is refused is refused in the preview as well.
        """
        if not self._previews():
            await act
            return None
        made, noted = len(self.books.invoices), len(self.books.notes)
        try:
            preview = await self.account.staff.post(f"/v1/subscriptions/{one.id}/preview", **asked)
        except Refused as refusal:
            try:
                await act
            except Refused as again:
                if again.code == refusal.code:
                    raise
            raise Differs(f"The preview alone was refused: {refusal}") from refusal
        try:
            await act
        except Refused as refusal:
            raise Differs(f"Not refused when previewed: {refusal}") from refusal

        async def compare() -> None:
            new = [
                invoice
                for invoice in self.books.invoices[made:]
                if invoice.subscription == one.id
                and invoice.at >= self.account.now.replace(microsecond=0)
            ]
            if preview["invoice"] and not new:
                raise Differs(f"An invoice was foretold: {preview['invoice']}")
            if new and preview["invoice"]:
                await self._require_as_foretold(preview, new[0])
            elif len(self.books.notes) != noted + len(preview["credit_notes"]):
                raise Differs(f"Credit notes were foretold: {preview['credit_notes']}")

        return compare

    async def _require_as_foretold(self, told: dict[str, Any], made: books.Invoice) -> None:
        real = await self.account.finance.get(f"/v1/invoices/{made.id}")
        different = list(differences(same(real), same(told["invoice"]), "invoice"))
        if different:
            raise Differs("\n".join(["not as foretold", *different]))

    async def _do(self, act: Act) -> None:
        self.then = None
        do: Callable[..., Awaitable[bool | None]] = getattr(self, f"do_{act.what}")
        try:
            done = await do(**act.how)
        except Refused as refusal:
            self.log.append(f"{self.account.now:%Y-%m-%d %H:%M} {act}: refused, {refusal.code}")
            self.acts[act.what, refusal.code] += 1
            return
        self.acts[act.what, "" if done is not False else "nothing to do"] += 1
        if done is not False:
            self.log.append(f"{self.account.now:%Y-%m-%d %H:%M} {act}")
        await self.account.settle()
        await self.compare()
        if self.then is not None:
            await self.then()

    # ---- what the services report ------------------------------------------------------------

    def _foresee(self, events: Sequence[Event]) -> None:
        """Drafts are finalized in the order that they were: of one instant any is right."""
        for event in events:
            if isinstance(event, InvoiceFinalized):
                about = set(event.subscriptions)
                for draft in list(self.books.drafts):
                    mine = {bill.subscription for bill in draft.bills}
                    if draft.finalizes == event.occurred_at and mine == about:
                        self.books.finalize_draft(draft)
                        break

    def _hear(self, event: Event) -> None:
        now = event.occurred_at
        self.books.pass_to(now)
        for subscription in self.subscriptions.values():
            subscription.pass_to(now)
        if isinstance(event, SubscriptionEvent):
            self._hear_of_subscription(event)
        elif isinstance(event, InvoiceEvent | DunningEvent):
            self._hear_of_invoice(event)
        else:
            self._hear_of_money(event)

    def _hear_of_subscription(self, event: SubscriptionEvent) -> None:
        if isinstance(event, Billable):
            if event.charges or event.take_backs:
                self._bill(event)
            else:
                self._bill_what_waits(event)
        if isinstance(event, SubscriptionChangeLapsed):
            self.books.take_back_change(event.change_id)
            self.reported[event.subscription_id]["lapsed"] += 1
        if isinstance(event, SubscriptionChangeWithdrawn):
            self.reported[event.subscription_id]["withdrawn"] += 1
        never_began = (
            isinstance(event, SubscriptionCanceled) and event.previous_status == "incomplete"
        )
        if never_began or isinstance(event, SubscriptionExpired):
            self._void_start(event.subscription_id)

    def _hear_of_invoice(self, event: InvoiceEvent | DunningEvent) -> None:
        match event:
            case DunningStarted():
                self._news("dunned", event)
            case DunningExhausted():
                self._news("exhausted", event, then=event.then)
            case InvoiceFinalized():
                self._finalized(event)
            case InvoicePaid():
                first = event.billing_reason == "subscription_start"
                for_change = event.billing_reason == "subscription_pending_change"
                self._news("paid", event, first=first, for_change=for_change)
            case InvoiceVoided():
                self._news("voided", event)
            case InvoiceMarkedUncollectible():
                self._news("given_up", event)
            case _:
                pass

    def _hear_of_money(self, event: Event) -> None:
        match event:
            case PaymentSucceeded():
                invoice = self.books.by_id[event.invoice_id]
                self.books.receive(invoice, event.amount.amount, by_card=True)
            case RefundCreated() if event.reason == "requested":
                self.books.by_id[event.invoice_id].by_hand += event.amount.amount
            case DisputeOpened():
                self.books.by_id[event.invoice_id].disputed += event.amount.amount
            case DisputeWon() | DisputeLost():
                invoice = self.books.by_id[event.invoice_id]
                invoice.disputed -= event.amount.amount
                if isinstance(event, DisputeLost):
                    invoice.by_hand += event.amount.amount
                self.books.dispute_decided(invoice)
            case _:
                pass

    def _news(self, kind: str, event: InvoiceEvent | DunningEvent, **more: Any) -> None:
        about = event.subscriptions if isinstance(event, InvoiceEvent) else self._billed_by(event)
        for subscription_id in about:
            if subscription_id in self.subscriptions:
                self.subscriptions[subscription_id].hear(
                    kind, event.invoice_id, event.occurred_at, **more
                )

    def _billed_by(self, event: DunningEvent) -> Sequence[UUID | None]:
        if event.subscription_id is not None:
            return (event.subscription_id,)
        return sorted(self.books.by_id[event.invoice_id].subscriptions)

    def _bill(self, event: Billable) -> None:
        """The next bill of the subscription must be the model's; then it goes to the books."""
        subscription = self.subscriptions[event.subscription_id]
        position = self.compared[subscription.id]
        bills = subscription.bills
        bill = bills[position] if position < len(bills) else None
        self._compare(event, bill)
        self.compared[subscription.id] += 1
        if bill is not None:
            self.books.bill(
                bill,
                [charge.id for charge in event.charges],
                supplied=_supplied(event),
                at=event.occurred_at,
                change_id=getattr(event, "change_id", None),
                terms=f"{event.dunning}",
            )

    def _bill_what_waits(self, event: Billable) -> None:
        """What waits for the next invoice is billed with an event that bills nothing itself."""
        if self.books.pending[event.subscription_id]:
            kind = event.name.partition(".")[2]
            empty = model.Bill(event.subscription_id, kind, event.occurred_at)
            if kind not in books.LEAVES_WAITING:
                self.books.bill(
                    empty,
                    [],
                    supplied=_supplied(event),
                    at=event.occurred_at,
                    terms=f"{event.dunning}",
                )

    def _void_start(self, subscription_id: UUID) -> None:
        for invoice in self.books.invoices:
            if invoice.subscription == subscription_id and invoice.status == "open":
                self.books.void(invoice)

    def _finalized(self, event: InvoiceFinalized) -> None:
        waiting = self.books.expected[event.subscription_id]
        if not waiting:
            raise Differs(f"Nobody owes the invoice {event.number} of {event.total}.")
        invoice = waiting.pop(0)
        invoice.id = event.invoice_id
        self.books.by_id[event.invoice_id] = invoice
        made = {
            "net": event.net.amount if event.net else None,
            "tax": event.tax.amount if event.tax else None,
            "total": event.total.amount,
            "credit applied": event.credit_applied.amount if event.credit_applied else None,
            "due": event.amount_due.amount,
        }
        owed = {
            "net": invoice.net,
            "tax": invoice.tax,
            "total": invoice.total,
            "credit applied": invoice.credit_applied,
            "due": invoice.due,
        }
        _require_same(f"invoice {event.number} at {event.occurred_at}", made, owed, invoice)

    # ---- comparing ---------------------------------------------------------------------------

    async def compare(self) -> None:
        """At rest, both must have asked for the same, and the books must be the same."""
        for subscription in self.subscriptions.values():
            subscription.pass_to(self.account.now)
            if len(subscription.bills) > self.compared[subscription.id]:
                missing = subscription.bills[self.compared[subscription.id]]
                raise Differs(f"nothing was billed, and owed is {_tell_bill(missing)}")
            if +subscription.reported != self.reported[subscription.id]:
                raise Differs(
                    f"Of what waited was reported {self.reported[subscription.id]},"
                    f" and {subscription.reported} should have been."
                )
        self.books.pass_to(self.account.now)
        for waiting in self.books.expected.values():
            for invoice in waiting:
                raise Differs(f"There is no invoice of {invoice.total} over {invoice.lines}.")
        if self.read_at == len(self.account.mail.carried):
            return
        self.read_at = len(self.account.mail.carried)
        await self._look_for_parked()
        await self._compare_books()

    async def _look_for_parked(self) -> None:
        parked = await self._of("subscriptions").fetchval(
            "SELECT parked_reason FROM subscriptions.subscriptions"
            " WHERE account_id = $1 AND parked_at IS NOT NULL",
            self.account.id,
        )
        if parked is not None:
            raise Differs(f"A subscription was parked: {parked}")

    async def _compare_books(self) -> None:
        connection = self._of("invoicing")
        credit = await connection.fetchval(CREDIT, self.account.id)
        rows = await connection.fetch(
            "SELECT * FROM invoicing.invoices WHERE account_id = $1 AND status <> 'draft'"
            " ORDER BY id",
            self.account.id,
        )
        for row in rows:
            invoice = self.books.by_id[row["id"]]
            made = {name: row[column] for name, column in COLUMNS.items()}
            owed = {name: _value(invoice, name) for name in COLUMNS}
            _require_same(f"invoice {row['number']}", made, owed, invoice)
        notes = await connection.fetch(
            "SELECT * FROM invoicing.credit_notes WHERE account_id = $1 ORDER BY id",
            self.account.id,
        )
        names = ("total", "refund", "credit", "returned_before", "reduction")
        made_notes = [tuple(row[name] for name in names) for row in notes]
        owed_notes = [tuple(getattr(note, name) for name in names) for note in self.books.notes]
        if made_notes != owed_notes:
            raise Differs(f"credit notes {names}: {made_notes} are not {owed_notes}")
        if (credit or 0) != self.books.credit:
            raise Differs(f"account credit {credit} is not {self.books.credit}")

    def _compare(self, event: Billable, bill: model.Bill | None) -> None:
        if bill is None:
            raise Differs(f"billed {_tell(event)}\nand nothing is owed")
        missing = list(bill.charges)
        for charge in event.charges:
            same = next((one for one in missing if _is_same(charge, one)), None)
            if same is None:
                raise Differs(
                    f"{charge.description} {charge.amount} is not owed\n"
                    f"billed {_tell(event)}\nowed {_tell_bill(bill)}"
                )
            same.id = charge.id
            missing.remove(same)
        wanted = {(one.charge.id, one.starts) for one in bill.taken_back}
        taken = {(one.charge_id, one.starts_at) for one in event.take_backs}
        if missing or wanted != taken or len(taken) != len(event.take_backs):
            raise Differs(f"billed {_tell(event)}\nowed {_tell_bill(bill)}")
        offs = sorted(
            (str(one.coupon.told["id"]), one.amount or 0, sorted(str(c.id) for c in one.charges))
            for one in bill.off
            if sum(c.amount for c in one.charges)
        )
        everything = tuple(charge.id for charge in event.charges)
        given = sorted(
            (
                str(one.coupon_id),
                one.amount or 0,
                sorted(str(c) for c in (everything if one.charge_ids is None else one.charge_ids)),
            )
            for one in event.discounts
        )
        if offs != given:
            raise Differs(
                f"discounts {given} are not {offs}\n{_tell(event)}\nowed {_tell_bill(bill)}"
            )
        if getattr(event, "invoice_now", True) != bill.now or event.give_back != bill.give_back:
            raise Differs(f"{_tell(event)} is not to be settled so: {_tell_bill(bill)}")

    # ---- acts --------------------------------------------------------------------------------

    def _one(self, of: int) -> model.Subscription | None:
        known = list(self.subscriptions.values())
        alive = [one for one in known if one.status not in model.FINAL] or known
        return alive[of % len(alive)] if alive else None

    def _payment(self, of: int, *statuses: str) -> Payment | None:
        found = [one for one in self.account.cashier.payments.values() if one.status in statuses]
        # In an order that is the same whatever came first.
        found.sort(key=lambda one: self._place(one.finalized.occurred_at, one.invoice_id))
        return found[of % len(found)] if found else None

    def _price(self, plan: str, number: int) -> dict[str, Any]:
        names = self.catalog.by_plan[plan]
        return self.catalog.prices[names[number % len(names)]]

    def _addons(self, addons: dict[str, int], interval: str) -> list[dict[str, Any]]:
        names = {name: name if name == "setup" else f"{name}/{interval}" for name in addons}
        return [
            {"price_id": self.catalog.prices[names[name]]["id"], "quantity": quantity}
            for name, quantity in addons.items()
        ]

    def _held(self, items: Sequence[dict[str, Any]]) -> tuple[model.Held, ...]:
        return tuple(
            model.Held(self.prices[item["price_id"]], item.get("quantity", 1)) for item in items
        )

    async def do_start(
        self,
        *,
        plan: str,
        price: int,
        quantity: int,
        addons: dict[str, int],
        coupon: str | None,
        trial: int | None,
        calendar: bool,
        ago: int = 0,
        imported: bool = False,
    ) -> None:
        chosen = self._price(plan, price)
        if chosen["type"] in {"flat", "metered"}:
            quantity = 1
        beside = self._addons(addons, chosen["interval"])
        body: dict[str, Any] = {
            "price_id": chosen["id"],
            "quantity": quantity,
            "addons": beside,
            "trial_days": trial or 0,
            "billing": "calendar" if calendar else "anniversary",
        }
        if coupon is not None:
            body["coupon"] = self.catalog.coupons[coupon]["code"]
        at = self.account.now - timedelta(days=ago)
        if ago:
            body |= {"start_at": at.isoformat(), "imported": imported, "trial_days": 0}
            trial = None
        told = await self.account.staff.post("/v1/subscriptions", **body)
        main = [{"price_id": chosen["id"], "quantity": quantity}]
        held = [*self._held(main), *self._components(chosen), *self._held(beside)]
        self.subscriptions[UUID(told["id"])] = model.Subscription(
            UUID(told["id"]),
            held,
            at=at,
            zone=self.story.zone,
            trial_days=trial or 0,
            coupon=model.Coupon(self.catalog.coupons[coupon]) if coupon else None,
            calendar=calendar,
            now=self.account.now,
            imported=imported,
        )

    async def do_change(
        self,
        *,
        of: int,
        plan: str | None = None,
        price: int = 0,
        quantity: int | None = None,
        addons: dict[str, int] | None = None,
        proration: str | None,
        days: int | None = None,
        once_paid: bool = False,
    ) -> bool | None:
        subscription = self._one(of)
        if subscription is None:
            return False
        body, wish = self._wish(subscription, plan, price, quantity, addons)
        if not body:
            return False
        if proration is not None:
            body["proration"] = proration
        on = None
        if days is not None:
            on = self.account.now + timedelta(days=days)
            body["effective_at"] = on.isoformat()
        elif once_paid:
            body["payment_behavior"] = "pending_if_unpaid"
        act = self.account.staff.post(f"/v1/subscriptions/{subscription.id}/change", **body)
        self.then = await self._foretold(subscription, act, **body)
        subscription.change(wish, proration, self.account.now, on=on, once_paid=once_paid)
        return None

    def _wish(
        self,
        subscription: model.Subscription,
        plan: str | None,
        price: int,
        quantity: int | None,
        addons: dict[str, int] | None,
    ) -> tuple[dict[str, Any], model.Wish]:
        """As the API is asked, and as the model is. Add-ons go along to another rhythm."""
        held = subscription.held[0].price.told
        main = held if plan is None else self._price(plan, price)
        beside = {
            self.catalog.named(one.price.id).split("/")[0]: one.quantity
            for one in subscription.held
            if one.slot is not None
        }
        if main["interval"] != held["interval"] and beside:
            addons = beside
        if main["type"] in {"flat", "metered"}:
            quantity = None
        body: dict[str, Any] = {} if plan is None else {"price_id": main["id"]}
        if quantity is not None:
            body["quantity"] = quantity
        if addons is not None:
            body["addons"] = self._addons(addons, main["interval"])
        wish = model.Wish(
            None if plan is None else self.prices[main["id"]],
            () if plan is None else self._components(main),
            1 if plan is not None and main["type"] == "flat" else quantity,
            None if addons is None else self._held(body["addons"]),
        )
        return body, wish

    def _components(self, price: dict[str, Any]) -> tuple[model.Held, ...]:
        found = self.catalog.components(price)
        return tuple(model.Held(self.prices[one["id"]], 1) for one in found)

    async def do_withdraw_change(self, *, of: int) -> bool | None:
        if (one := self._one(of)) is None:
            return False
        await self.account.staff.ask("DELETE", f"/v1/subscriptions/{one.id}/scheduled-change")
        one.withdraw_change()
        return None

    async def do_cancel(
        self, *, of: int, when: str, credit: bool, days: int = 0, refund: bool = False
    ) -> bool | None:
        if (one := self._one(of)) is None:
            return False
        body: dict[str, Any] = {
            "credit": credit,
            "refund": refund,
            "at_period_end": when == "end",
        }
        at = None
        if when == "date":
            at = self.account.now + timedelta(days=days)
            body["cancel_at"] = at.isoformat()
        act = self.account.staff.post(f"/v1/subscriptions/{one.id}/cancel", **body)
        self.then = await self._foretold(one, act, cancel=body)
        if when == "now":
            one.cancel(self.account.now, credit=credit, refund=refund)
        else:
            one.cancel_later(at, credit=credit, refund=refund)
        return None

    async def do_uncancel(self, *, of: int) -> bool | None:
        if (one := self._one(of)) is None:
            return False
        await self.account.staff.post(f"/v1/subscriptions/{one.id}/uncancel")
        one.uncancel()
        return None

    async def do_pause(self, *, of: int, days: int | None) -> bool | None:
        if (one := self._one(of)) is None:
            return False
        at = None if days is None else self.account.now + timedelta(days=days)
        body = {} if at is None else {"resumes_at": at.isoformat()}
        await self.account.staff.post(f"/v1/subscriptions/{one.id}/pause", **body)
        one.pause_later(at)
        return None

    async def do_resume(self, *, of: int) -> bool | None:
        if (one := self._one(of)) is None:
            return False
        act = self.account.staff.post(f"/v1/subscriptions/{one.id}/resume")
        self.then = await self._foretold(one, act, resume=True)
        one.resume(self.account.now)
        return None

    async def do_card(self, *, card: str) -> None:
        self.account.cashier.card = Card(card)

    async def do_pay(self, *, of: int) -> bool:
        payment = self._payment(of, "failed")
        return payment is not None and self.account.cashier.pay(payment)

    async def do_answer(self, *, of: int, paid: bool) -> bool:
        payment = self._payment(of, "processing")
        return payment is not None and self.account.cashier.answer(payment, paid=paid)

    async def do_refund(self, *, of: int, share: float) -> bool:
        payment = self._payment(of, "succeeded")
        if payment is None:
            return False
        return self.account.cashier.refund_by_hand(payment, max(1, int(payment.left * share)))

    async def do_dispute(self, *, of: int, share: float) -> bool:
        payment = self._payment(of, "succeeded")
        if payment is None:
            return False
        return self.account.cashier.dispute(payment, max(1, int(payment.left * share)))

    async def do_decide(self, *, of: int, won: bool) -> bool:
        open_ones = self.account.cashier.disputes
        if not open_ones:
            return False
        self.account.cashier.decide(open_ones[of % len(open_ones)], won=won)
        return True

    async def _invoices(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.account.finance.get("/v1/invoices?limit=100"))[
            "data"
        ]
        known = [one for one in found if one["number"] is not None]
        return sorted(
            known,
            key=lambda one: self._place(datetime.fromisoformat(one["issued_at"]), UUID(one["id"])),
        )

    def _place(self, at: datetime, invoice_id: UUID) -> tuple[datetime, str, int]:
        """Where an invoice stands among the account's, whoever was billed first in an instant."""
        invoice = self.books.by_id[invoice_id]
        about = sorted(invoice.subscriptions or {invoice.subscription or self.account.id})
        number = {one: position for position, one in enumerate(self.subscriptions)}
        return at, str([number.get(one, -1) for one in about]), invoice.total

    async def _invoice(self, of: int, *statuses: str) -> dict[str, Any] | None:
        found = [one for one in await self._invoices() if one["status"] in statuses]
        return found[of % len(found)] if found else None

    async def do_credit_note(
        self, *, of: int, share: float | None, line: int | None, settle: str
    ) -> bool | None:
        invoice = await self._invoice(of, "open", "paid", "uncollectible")
        if invoice is None:
            return False
        body: dict[str, Any] = {"invoice_id": invoice["id"], "reason": "Goodwill", "settle": settle}
        if line is not None and line < len(invoice["lines"]):
            chosen = invoice["lines"][line]
            whole = chosen["amount"]["amount"] - chosen["discount"]["amount"]
            body["lines"] = [{"line_id": chosen["id"], "amount": int(whole * (share or 1.0))}]
        elif share is not None:
            body["amount"] = int(invoice["total"]["amount"] * share)
        await self.account.finance.post("/v1/credit-notes", **body)
        by_line = "lines" in body
        self.books.credit_note(
            self.books.by_id[UUID(invoice["id"])],
            line=line if by_line else None,
            amount=body["lines"][0]["amount"] if by_line else body.get("amount"),
            refund=settle == "refund",
        )
        return None

    async def do_void(self, *, of: int) -> bool | None:
        if (invoice := await self._invoice(of, "open")) is None:
            return False
        await self.account.finance.post(f"/v1/invoices/{invoice['id']}/void")
        self.books.void(self.books.by_id[UUID(invoice["id"])])
        return None

    async def do_reissue(self, *, of: int) -> bool | None:
        if (invoice := await self._invoice(of, "void")) is None:
            return False
        made = await self.account.finance.post(f"/v1/invoices/{invoice['id']}/reissue")
        self.books.reissue(self.books.by_id[UUID(invoice["id"])], at=self.account.now)
        await self.account.finance.post(f"/v1/invoices/{made['id']}/finalize")
        return None

    async def do_give_up(self, *, of: int) -> bool | None:
        if (invoice := await self._invoice(of, "open")) is None:
            return False
        await self.account.finance.post(f"/v1/invoices/{invoice['id']}/mark-uncollectible")
        self.books.give_up(self.books.by_id[UUID(invoice["id"])])
        return None

    async def do_mark_paid(self, *, of: int) -> bool | None:
        if (invoice := await self._invoice(of, "open", "uncollectible")) is None:
            return False
        await self.account.finance.post(f"/v1/invoices/{invoice['id']}/mark-paid")
        owed = self.books.by_id[UUID(invoice["id"])]
        self.books.receive(owed, invoice["amount_remaining"]["amount"], by_card=False)
        return None

    async def do_vat_number(self, *, is_set: bool) -> bool | None:
        number = VAT_NUMBERS.get(self.story.country)
        if number is None:
            return False
        await self.account.payer.ask(
            "PUT", "/v1/billing-details", {"name": "Payer", "vat_id": number if is_set else None}
        )
        self.books.has_number = is_set
        return None

    async def do_use(self, *, of: int, value: str, ago: float) -> bool | None:
        metering = [
            one
            for one in self.subscriptions.values()
            if any(held.price.type == "metered" for held in one.held)
        ]
        if not metering:
            return False
        one = metering[of % len(metering)]
        at = self.account.now - timedelta(hours=ago)
        name = f"{self.account.id}-{len(self.used)}"
        await self.account.staff.post(
            "/v1/usage-events",
            id=name,
            meter=self.catalog.meter["code"],
            value=value,
            at=at.isoformat(),
            subscription_id=str(one.id),
        )
        self.used.append(name)
        one.use({"id": name, "meter_id": self.catalog.meter["id"], "value": value, "at": at})
        return None

    async def do_void_usage(self, *, of: int) -> bool | None:
        if not self.used:
            return False
        name = self.used[of % len(self.used)]
        await self.account.staff.ask("DELETE", f"/v1/usage-events/{name}")
        for one in self.subscriptions.values():
            one.void_usage(name)
        return None

    async def do_move(self, *, plan: str, price: int, to: str) -> bool | None:
        old, new = self._price(plan, price), self._price(to, price)
        if old["id"] == new["id"]:
            return False
        await self.world.catalog.post(
            "/v1/price-moves", from_price_id=old["id"], to_price_id=new["id"]
        )
        await self.world.run_for_everybody("move_subscribers")
        for one in self.subscriptions.values():
            if one.held[0].price.id == old["id"] and one.status in model.SERVED:
                wish = model.Wish(self.prices[new["id"]], self._components(new))
                one.move(old["id"], wish)
        return None

    async def do_grant(self, *, amount: int) -> None:
        await self.account.finance.post(
            "/v1/account-credit", amount={"amount": amount, "currency": "EUR"}, note="Welcome"
        )
        self.books.credit += amount

    async def do_put_coupon(self, *, of: int, coupon: str) -> bool | None:
        if (one := self._one(of)) is None:
            return False
        told = self.catalog.coupons[coupon]
        await self.account.staff.post(f"/v1/subscriptions/{one.id}/coupons", coupon=told["code"])
        one.put_coupon(model.Coupon(told))
        return None

    async def do_take_coupon_off(self, *, of: int) -> bool | None:
        one = self._one(of)
        if one is None or not one.coupons:
            return False
        coupon_id = one.coupons[of % len(one.coupons)].coupon.told["id"]
        await self.account.staff.ask("DELETE", f"/v1/subscriptions/{one.id}/coupons/{coupon_id}")
        one.take_coupon_off(coupon_id)
        return None

    async def do_trial(self, *, of: int, days: int) -> bool | None:
        if (one := self._one(of)) is None:
            return False
        at = self.account.now + timedelta(days=days)
        to = at.isoformat() if days else "now"
        await self.account.staff.post(f"/v1/subscriptions/{one.id}/trial", trial_end=to)
        one.end_trial(at, self.account.now)
        return None

    async def do_close(self) -> None:
        """The account is closed, and forgotten where it may be."""
        self.account.close()
        for one in self.subscriptions.values():
            one.close(self.account.now)
        self.books.has_number = False

    async def do_wait(self) -> None:
        """Nothing but time."""


def _supplied(event: Billable) -> datetime:
    """A change is supplied when it is made, a cancellation's bill when it counts."""
    if isinstance(event, SubscriptionCanceled):
        return event.effective_at
    changed = isinstance(event, SubscriptionChanged | SubscriptionChangePending)
    return event.occurred_at if changed else event.period_start


def _is_same(charge: Charge, owed: model.Charge) -> bool:
    told = (str(charge.price_id), charge.amount, charge.period_start, charge.period_end)
    return told == (owed.price.id, owed.amount, owed.starts, owed.ends)


def _value(invoice: books.Invoice, name: str) -> object:
    if name == "withheld":
        return sum(one.total for one in invoice.withheld)
    return getattr(invoice, name)


def _require_same(
    what: str, made: dict[str, Any], owed: dict[str, Any], invoice: books.Invoice
) -> None:
    differ = {name: (made[name], owed[name]) for name in owed if made[name] != owed[name]}
    if differ:
        lines = "\n    ".join(
            f"{line.amount} less {line.discount}, net {line.net}, {line.tax} {line.charge}"
            for line in invoice.lines
        )
        raise Differs(f"{what}: {differ} (made, owed)\n    {lines}")


def _tell(event: Billable) -> str:
    lines = [
        f"{c.kind} {c.amount} {c.description} {c.period_start:%Y-%m-%dT%H:%M}.."
        f"{c.period_end:%Y-%m-%dT%H:%M}"
        for c in event.charges
    ]
    lines += [f"take back from {t.starts_at}: {t.description}" for t in event.take_backs]
    return "\n    ".join([f"{event.name} at {event.occurred_at}", *lines])


def _tell_bill(bill: model.Bill) -> str:
    lines = [*map(str, bill.charges)]
    lines += [f"take back from {t.starts}: {t.charge}" for t in bill.taken_back]
    return "\n    ".join([f"{bill.event} at {bill.at}", *lines])
