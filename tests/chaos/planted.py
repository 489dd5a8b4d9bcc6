"""Defects on purpose, to see that the harness finds them (put in by tests/chaos/child.py)."""

import asyncio
import contextlib
import importlib
import os
import random
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

PLANTS: dict[str, Callable[[], None]] = {}
#: Where a defect is a matter of an instant, the instant is made longer.
MOMENT_SECONDS = 0.4


def plant(put: Callable[[], None]) -> Callable[[], None]:
    PLANTS[put.__name__.replace("_", " ")] = put
    return put


def module(name: str) -> Any:
    return importlib.import_module(name)


# ---- the message path -----------------------------------------------------------------------


@plant
def marked_before_published() -> None:
    """A crash in between loses what is marked."""
    relay = module("shared.messaging.relay")

    async def _relay_batch(self: Any, connection: Any, channel: Any) -> int:
        if not self._parts:
            return 0
        rows = await connection.fetch(self._sql(relay.NEXT), sorted(self._parts), 50)
        if rows:
            await connection.execute(self._sql(relay.MARK_SENT), [row["id"] for row in rows])
            await asyncio.sleep(MOMENT_SECONDS)
            await self._publish(channel, rows)
        return len(rows)

    relay.Relay._relay_batch = _relay_batch


@plant
def published_without_confirms() -> None:
    """What was written to a socket counts as sent."""
    relay = module("shared.messaging.relay")
    publishing = module("shared.messaging.publishing")

    async def _publish(self: Any, channel: Any, rows: Any) -> Any:
        del self
        for row in rows:
            waiting = channel.basic_publish(
                row["body"],
                exchange=row["exchange"],
                routing_key=row["routing_key"],
                properties=publishing.properties(str(row["id"])),
            )
            _BACKGROUND.add(asyncio.ensure_future(_quietly(waiting)))
        await asyncio.sleep(0.01)
        return [row["id"] for row in rows], [], None

    relay.Relay._publish = _publish


@plant
def acknowledged_before_committed() -> None:
    """A crash in between loses what is in hand."""
    delivery = module("shared.messaging.delivery")

    settle = delivery.Deliveries._settle

    async def hasty(self: Any, taken: Any) -> None:
        last = taken.messages[-1]
        await last.channel.basic_ack(last.delivery_tag or 0, multiple=True, wait=False)
        await settle(self, replace(taken, messages=[_Deaf() for _ in taken.messages]))

    delivery.Deliveries._settle = hasty


class _Deaf:
    """A message that was acknowledged already."""

    delivery_tag = 0

    def __init__(self) -> None:
        self.channel = self

    async def basic_ack(self, *_: Any, **__: Any) -> None:
        return


@plant
def no_inbox() -> None:
    """Whatever comes twice takes effect twice."""
    inbox = module("shared.messaging.inbox")
    marks = module("shared.messaging.marks")
    processor = module("shared.messaging.processor")
    claim = inbox.Inbox.claim
    see_through = processor.Processor.see_through

    async def claim_all(self: Any, uow: Any, event_ids: Any) -> set[Any]:
        await claim(self, uow, event_ids)
        return set(event_ids)

    async def nothing_done(*_: Any) -> set[Any]:
        return set()

    async def slowly(self: Any, fresh: Any) -> None:
        await see_through(self, fresh)
        await asyncio.sleep(MOMENT_SECONDS)

    inbox.Inbox.claim = claim_all
    marks.Marks.done = nothing_done
    processor.Processor.see_through = slowly


@plant
def done_by_redis_alone() -> None:
    """The claim in Redis, taken before the work, makes a redelivery look done."""
    marks = module("shared.messaging.marks")
    done = marks.Marks.done

    async def done_when_claimed(self: Any, queue: str, event_ids: Any) -> set[Any]:
        seen = self.__dict__.setdefault("_mine", set())
        try:
            found = await self._claim.registered_client.mget(marks._keys(queue, event_ids))
        except Exception:  # noqa: BLE001  (without Redis all is as it should be)
            found = []
        claimed = {one for one, mark in zip(event_ids, found, strict=False) if mark}
        await done(self, queue, event_ids)
        seen.update(event_ids)
        return claimed

    marks.Marks.done = done_when_claimed


@plant
def no_sequence_gate() -> None:
    """Events take effect in whatever order they come."""
    gate = module("shared.messaging.gate")
    processor = module("shared.messaging.processor")
    see_through = processor.Processor.see_through

    async def slowly(self: Any, fresh: Any) -> None:
        if self.handler.ordered and random.random() < 0.5:  # noqa: S311  (chance, no secret)
            await asyncio.sleep(4 * MOMENT_SECONDS)
        await see_through(self, fresh)

    processor.Processor.see_through = slowly

    def _sort(turn: Any, aggregate_id: Any, found: Any) -> None:
        for sequence in found:
            one = found[sequence]
            if one is not None:
                turn.due.append(one)
        turn.moved[aggregate_id] = max(found)

    gate.Gate._sort = staticmethod(_sort)


@plant
def unknown_types_given_up() -> None:
    """What this release does not know is parked before anybody asks who wanted it."""
    envelope = module("shared.messaging.envelope")
    processor = module("shared.messaging.processor")
    read = processor.Processor.read

    def strictly(self: Any, body: bytes, *given: Any, **how: Any) -> Any:
        delivery = read(self, body, *given, **how)
        if envelope.catalog_entry(delivery.found.type) is None:
            raise envelope.Malformed(f"this release knows no event {delivery.found.type}")
        return delivery

    processor.Processor.read = strictly


@plant
def poison_dropped() -> None:
    """What fails is acknowledged and forgotten, instead of being put off."""
    processor = module("shared.messaging.processor")

    async def forget(*_: Any, **__: Any) -> None:
        return

    async def no_patience(*_: Any) -> bool:
        return False

    processor.Processor._put_off = forget
    processor.Patience.waits_out = no_patience


@plant
def outbox_in_a_transaction_of_its_own() -> None:
    """The rows commit, and what is to be told of them follows a little later."""
    db = module("shared.db")
    database = db.Database
    begin = database.begin.__wrapped__

    @asynccontextmanager
    async def in_two(self: Any, scope: Any = db.SYSTEM) -> Any:
        kept: list[Any] = []
        async with asynccontextmanager(begin)(self, scope) as uow:
            yield uow
            kept, uow._outbox = uow._outbox, []
        if kept:
            await asyncio.sleep(MOMENT_SECONDS)
            async with asynccontextmanager(begin)(self, scope) as later:
                later._outbox = kept

    database.begin = in_two


# ---- the money ------------------------------------------------------------------------------


@plant
def a_new_key_each_time() -> None:
    """A charge that is sent again is another charge for the provider."""
    collect = module("services.payments.use_cases.collect_payments")
    ask = module("services.payments.use_cases.ask_providers")

    charge_request = collect.charge_request

    def anew(*given: Any) -> Any:
        return replace(charge_request(*given), key=str(uuid4()))

    collect.charge_request = anew
    ask.charge_request = anew


@plant
def unknown_tried_again() -> None:
    """A lost answer is taken for a refusal, and a new attempt is made."""
    collector = module("services.payments.collector")
    base = module("services.payments.providers.base")
    charge = collector.Collector._charge

    async def hasty(self: Any, claim: Any) -> Any:
        outcome = await charge(self, claim)
        if isinstance(outcome, base.Uncertain):
            return base.Canceled(reference="")
        return outcome

    collector.Collector._charge = hasty


@plant
def ledger_posted_later() -> None:
    """The state commits, and its ledger entries follow in a transaction of their own."""
    settle = module("services.payments.use_cases.settle_attempt")
    collector = module("services.payments.collector")
    settled = settle.settle_attempt

    async def without_ledger(uow: Any, **how: Any) -> None:
        posted: list[tuple[Any, dict[str, Any]]] = []

        class Later:
            async def post(self, posting: Any, **more: Any) -> None:
                posted.append((posting, more))

        real, uow.ledger = uow.ledger, Later()
        await settled(uow, **how)
        uow.ledger = real
        collect = _COLLECTOR.get("one")
        if posted and collect is not None:
            _BACKGROUND.add(asyncio.ensure_future(post_later(collect, posted)))
        elif posted:
            for posting, more in posted:
                await real.post(posting, **more)

    async def post_later(collect: Any, posted: list[tuple[Any, dict[str, Any]]]) -> None:
        # Long enough for one of a few kills to come in between.
        await asyncio.sleep(8 * MOMENT_SECONDS)
        async with collect._begin() as uow:
            for posting, more in posted:
                await uow.ledger.post(posting, **more)

    start = collector.Collector.start

    def remembered(self: Any, claims: Any) -> Any:
        _COLLECTOR["one"] = self
        return start(self, claims)

    collector.Collector.start = remembered
    collector.settle_attempt = without_ledger


@plant
def charged_before_stored() -> None:
    """The provider is called first, and the attempt is written down under an id of its own."""
    collect = module("services.payments.use_cases.collect_payments")
    collector = module("services.payments.collector")
    charge = collector.Collector._charge
    claim_due = collect.claim_due
    schedule = module("services.payments.schedule")

    async def claim_and_charge(uow: Any, due: Any, **how: Any) -> Any:
        claims = await claim_due(uow, due, **how)
        owner = _COLLECTOR["one"]
        for claim in claims.claims:
            _OUTCOMES[claim.attempt_id] = await charge(owner, claim)
        await asyncio.sleep(8 * MOMENT_SECONDS)
        return claims

    async def known(_self: Any, claim: Any) -> Any:
        return _OUTCOMES.pop(claim.attempt_id)

    made = collector.Collector.__init__

    def remembered(self: Any, *given: Any, **how: Any) -> None:
        made(self, *given, **how)
        _COLLECTOR["one"] = self

    collector.Collector.__init__ = remembered
    collector.Collector._charge = known
    schedule.claim_due = claim_and_charge


@plant
def nobody_asks_the_provider() -> None:
    """An attempt whose answer was lost stays unknown for ever."""
    schedule = module("services.payments.schedule")

    async def nothing(*_: Any, **__: Any) -> list[Any]:
        return []

    schedule.claim_unanswered = nothing


@plant
def invoice_numbers_from_a_sequence() -> None:
    """Numbers are taken in a transaction of their own: what rolls back leaves a gap."""
    owner = module("services.invoicing.repository").InvoicingUnitOfWork
    take = owner.take_numbers

    async def wasteful(self: Any, entity_id: Any, series: str, dates: Any) -> list[str]:
        wanted = list(dates)
        numbers: list[str] = await take(self, entity_id, series, [*wanted, wanted[-1]])
        return numbers[: len(wanted)]

    owner.take_numbers = wasteful


@plant
def idempotency_keys_forgotten() -> None:
    """A request that is sent again is done again."""
    edge = module("shared.web.edge")
    made = edge.Edge.__init__

    def forgetful(self: Any, *given: Any, **how: Any) -> None:
        made(self, *given, **how)
        if self.key:
            self.key = os.urandom(8).hex()

    edge.Edge.__init__ = forgetful


# ---- the bills ------------------------------------------------------------------------------


@plant
def a_note_on_the_wrong_line() -> None:
    """What is taken back of several lines is written on the smallest of them."""
    group = module("services.invoicing.domain.credit_note").LineGroup
    take_gross = group.take_gross

    def on_one(self: Any, gross: int) -> Any:
        nets, tax = take_gross(self, gross)
        smallest = min(nets, key=lambda line: self.left[line], default=None)
        return ({smallest: sum(nets.values())} if nets else nets), tax

    group.take_gross = on_one


@plant
def refunds_by_hand_forgotten() -> None:
    """What went back by hand is given again when it is taken back."""
    split = module("services.invoicing.domain.credit_note").Split
    of = split.of.__func__

    def forgetful(cls: Any, invoice: Any, total: int) -> Any:
        kept, invoice.amount_unnoted = invoice.amount_unnoted, invoice.amount_covered
        try:
            return of(cls, invoice, total)
        finally:
            invoice.amount_unnoted = kept

    split.of = classmethod(forgetful)


@plant
def both_charged() -> None:
    """What is held now is charged for the rest of a period, and what it replaces stays charged."""
    agreement = module("services.subscriptions.domain.subscription.agreement").Agreement
    difference = agreement._bill_difference

    def charges_alone(self: Any, *given: Any) -> Any:
        bill = difference(self, *given)
        bill.take_backs.clear()
        return bill

    agreement._bill_difference = charges_alone


@plant
def renewed_for_nothing() -> None:
    """Now and then a period begins and nothing is charged for it."""
    passing = module("services.subscriptions.domain.subscription.passing").Passing
    renew = passing.renew

    def generous(self: Any, *given: Any, **how: Any) -> Any:
        event = renew(self, *given, **how)
        return event.model_copy(update={"charges": ()}) if event.sequence % 2 else event

    passing.renew = generous


@plant
def the_whole_for_a_part() -> None:
    """Of a line that was used in part, all is given back."""
    take_back = module("services.invoicing.domain.take_back")
    worth = take_back._worth

    def generous(line: Any, share: Any, group: Any) -> Any:
        del share
        return worth(line, 1, group)

    take_back._worth = generous


@plant
def credit_given_twice() -> None:
    """A credit note puts twice of what it says on the account."""
    account = module("services.invoicing.domain.account")
    add = account.AccountCredit.add

    def twice(self: Any, amount: int, kind: Any, **how: Any) -> Any:
        noted = kind is account.CreditKind.CREDIT_NOTE
        return add(self, 2 * amount if noted else amount, kind, **how)

    account.AccountCredit.add = twice


@plant
def previews_that_take_nothing_back() -> None:
    """A preview leaves out what goes back."""
    client = module("services.subscriptions.invoicing_client").InvoicingClient
    preview = client.preview

    async def half(self: Any, events: Any, headers: Any) -> Any:
        told = [event.model_copy(update={"take_backs": ()}) for event in events]
        return await preview(self, told, headers)

    client.preview = half


@plant
def an_end_forgotten() -> None:
    """That it is to end is reported, and not remembered."""
    agenda = module("services.subscriptions.domain.agenda")
    ending = module("services.subscriptions.domain.subscription.ending").Ending
    cancel_later = ending.cancel_later

    def forgetful(self: Any, **how: Any) -> Any:
        event = cancel_later(self, **how)
        self._drop(*(one for one in self.agenda if one.kind is agenda.EntryKind.CANCEL))
        return event

    ending.cancel_later = forgetful


@plant
def what_waits_for_the_next_bill_lost() -> None:
    """What a change leaves for the next invoice is on none."""
    billing = module("services.invoicing.use_cases.bill_subscription")

    async def nothing(*_: Any) -> None:
        return

    billing._keep_for_later = nothing


@plant
def late_usage_forgotten() -> None:
    """Usage of a window that was billed before is taken, and never billed."""
    usage = module("services.subscriptions.repository.usage").UsageStore

    async def none(*_: Any, **__: Any) -> list[Any]:
        return []

    usage.billed_windows = none


@plant
def usage_taken_whatever_counts_it() -> None:
    """Usage that no price counts is taken."""
    counters = module("services.subscriptions.use_cases.count_usage").UsageCounters
    usage = module("services.subscriptions.domain.usage")
    taking = counters.taking

    async def whatever(self: Any, subscription: Any, meter: Any, at: Any) -> Any:
        found = await taking(self, subscription, meter, at)
        return found or [usage.Window(meter.id, subscription.period_start, None, None)]

    counters.taking = whatever


@plant
def reductions_not_heard_of() -> None:
    """What is not owed any more is asked for all the same."""
    consumers = module("services.payments.consumers")
    owe_less = consumers.owe_less
    reduced = module("shared.events.invoicing").InvoiceReduced

    async def deaf(uow: Any, event: Any) -> None:
        if not isinstance(event, reduced):
            await owe_less(uow, event)

    consumers.owe_less = deaf


_BACKGROUND: set[Any] = set()
_COLLECTOR: dict[str, Any] = {}
_OUTCOMES: dict[Any, Any] = {}


async def _quietly(waiting: Any) -> None:
    with contextlib.suppress(Exception):
        await waiting


def put(defect: str, name: str, words: list[str]) -> None:
    """Plant it in this process, where it concerns it."""
    service = name.split(".")[1]
    # The sandbox is the witness: nothing is wrong with it.
    concerned = not name.endswith(".sandbox") and "migrate" not in words
    if concerned and service in CONCERNED.get(defect, (service,)):
        PLANTS[defect]()


#: Defects that live in one service; the others are in all of them.
CONCERNED = {
    **dict.fromkeys(
        [
            "a new key each time",
            "unknown tried again",
            "ledger posted later",
            "charged before stored",
            "nobody asks the provider",
        ],
        ("payments",),
    ),
    **dict.fromkeys(
        [
            "invoice numbers from a sequence",
            "a note on the wrong line",
            "refunds by hand forgotten",
            "the whole for a part",
            "credit given twice",
            "what waits for the next bill lost",
        ],
        ("invoicing",),
    ),
    **dict.fromkeys(
        [
            "both charged",
            "renewed for nothing",
            "previews that take nothing back",
            "an end forgotten",
            "late usage forgotten",
            "usage taken whatever counts it",
        ],
        ("subscriptions",),
    ),
    "reductions not heard of": ("payments",),
}
