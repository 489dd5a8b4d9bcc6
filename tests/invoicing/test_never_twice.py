"""Whatever is paid, refunded, credited, taken back, disputed or moved, in any order: once."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from services.invoicing.domain.credit_note import (
    CreditExceedsPaid,
    CreditNote,
    Earlier,
    Settle,
    Split,
    Taken,
    credit,
    take_all,
    take_amount,
)
from services.invoicing.domain.invoice import OWED, Invoice, InvoiceLine, Status
from services.invoicing.domain.payment import Returns
from services.invoicing.domain.take_back import Return, take_shares
from services.invoicing.domain.totals import Bundle, compute
from shared.events.subscriptions import Charge
from shared.ids import new_id
from tests.invoicing.factories import END, START, a_charge, taxed_at
from tests.invoicing.test_credit_notes import NOW
from tests.invoicing.test_take_backs import a_take_back


@dataclass
class Books:
    """One invoice, and all that was ever done with it."""

    invoice: Invoice
    charges: list[Charge]
    notes: list[CreditNote] = field(default_factory=list)
    #: Lines of later invoices, by which a part was moved there.
    moved: list[InvoiceLine] = field(default_factory=list)
    by_provider: int = 0
    by_hand: int = 0
    disputed: int = 0
    #: By-hand returns after which more had gone back than was paid: people do that.
    people_gave: int = 0

    @property
    def earlier(self) -> Earlier:
        return Earlier.of(self.notes, moved=self.moved, withheld=self.invoice.withheld)

    # What may happen.

    def pay(self, part: int) -> None:
        invoice = self.invoice
        if invoice.status in OWED and invoice.amount_remaining:
            amount = max(invoice.amount_remaining * part // 100, 1)
            invoice.receive(amount, at=NOW, payment_id=None)
            self.by_provider += amount

    def take_back(self, part: int) -> None:
        charge = self.charges[part % len(self.charges)]
        self._give(self._return_of(charge, START + (END - START) * part / 100))

    def move(self, part: int) -> None:
        """To a later invoice, as a negative line of it."""
        charge = self.charges[part % len(self.charges)]
        one = self._return_of(charge, START + (END - START) * part / 100)
        if one is None or not one.is_plain:
            return
        self.invoice.amount_moved += one.taken.total
        [(line, net)] = one.taken.lines
        self.moved.append(a_negative_line(line, net, one.taken.tax))

    def let_be(self, part: int) -> None:
        """The later invoice was voided."""
        if self.moved:
            line = self.moved.pop(part % len(self.moved))
            self.invoice.amount_moved -= line.brought

    def credit_by_staff(self, part: int) -> None:
        left = self.invoice.amount_creditable
        if not left:
            return
        try:
            taken = take_amount(self.invoice, self.earlier, max(left * part // 100, 1))
        except CreditExceedsPaid:
            return
        self._note(taken, Settle.REFUND if part % 2 else Settle.CREDIT)

    def credit_all(self, _: int) -> None:
        taken = take_all(self.invoice, self.earlier)
        if 0 < taken.total <= self.invoice.amount_creditable:
            self._note(taken, Settle.CREDIT)

    def refund_by_hand(self, part: int) -> None:
        """By staff of payments, who know of no credit notes."""
        left = self.by_provider - self.invoice.amount_refunded - self.by_hand - self.disputed
        if left > 0:
            self.by_hand += max(left * part // 100, 1)
            self._returns()

    def open_dispute(self, part: int) -> None:
        left = self.by_provider - self.invoice.amount_refunded - self.by_hand - self.disputed
        if left > 0:
            self.disputed += max(left * part // 100, 1)
            self._returns()

    def win_dispute(self, _: int) -> None:
        self.disputed = 0
        self._returns()
        self._release()

    def lose_dispute(self, _: int) -> None:
        self.by_hand += self.disputed
        self.disputed = 0
        self._returns()
        self._release()

    def void(self, _: int) -> None:
        if self.invoice.status is Status.OPEN:
            self.invoice.void(at=NOW)

    def give_up(self, _: int) -> None:
        if self.invoice.status is Status.OPEN:
            self.invoice.give_up(at=NOW)

    # How the use cases do it.

    def _return_of(self, charge: Charge, since: datetime) -> Return | None:
        invoice = self.invoice
        if invoice.status is Status.VOID:
            return None
        line = next(line for line in invoice.lines if line.charge_id == charge.id)
        take_back = a_take_back(charge, since)
        taken = take_shares(invoice, self.earlier, {line.id: [take_back]})
        if taken.total <= 0:
            return None
        return Return(
            invoice=invoice,
            taken=taken,
            split=Split.of(invoice, taken.total),
            take_backs={line.id: take_back},
            settle=Settle.CREDIT,
        )

    def _give(self, one: Return | None) -> None:
        if one is None:
            return
        now, held = one.divide()
        assert now.total + held.total == one.taken.total
        if held.total:
            assert self.disputed
            self.invoice.withhold(entry_of(held), held.total)
        if now.total:
            self._note(now, one.settle)

    def _note(self, taken: Taken, settle: Settle) -> None:
        owed = self.invoice.amount_owed
        note = credit(
            self.invoice,
            taken,
            number="CN-1",
            reason="x",
            settle=settle,
            by_provider=self.by_provider,
            at=NOW,
        )
        assert note.reduction == min(owed, note.total)  # what is unpaid goes first
        if note.reduction:
            self.invoice.reduce(note.reduction, at=NOW)
        self.notes.append(note)

    def _returns(self) -> None:
        self.invoice.note_returns(
            Returns(returned=self.by_hand, disputed=self.disputed, unnoted=self.by_hand)
        )

    def _release(self) -> None:
        lines = {line.id: line for line in self.invoice.lines}
        for entry in self.invoice.release():
            nets = [(lines[UUID(line)], net) for line, net in entry["lines"].items()]
            taken = Taken(nets, entry["taxes"])
            self._give(
                Return(
                    invoice=self.invoice,
                    taken=taken,
                    split=Split.of(self.invoice, taken.total),
                    take_backs={},
                    settle=Settle.CREDIT,
                    because="x",
                )
            )

    # What must hold.

    def check(self) -> None:
        invoice = self.invoice
        gone = self.earlier.net_of_line
        for line in invoice.lines:
            assert 0 <= gone.get(line.id, 0) <= line.net
        total = sum(note.total for note in self.notes) + sum(line.brought for line in self.moved)
        assert total + invoice.amount_withheld <= invoice.total
        assert invoice.amount_credited == sum(note.total for note in self.notes)
        assert invoice.amount_reduced == sum(note.reduction for note in self.notes)
        assert invoice.amount_given <= invoice.amount_settled
        given = sum(note.refund + note.credit for note in self.notes)
        assert given + invoice.amount_moved <= invoice.amount_settled
        assert 0 <= invoice.amount_withheld <= self.disputed
        assert sum(note.refund for note in self.notes) <= self.by_provider
        if invoice.status is Status.PAID:
            settled = invoice.amount_settled + invoice.amount_reduced
            assert settled == invoice.total
        # What the law of the table is.
        assert invoice.amount_covered <= invoice.amount_credited
        assert invoice.amount_paid <= (
            invoice.total - invoice.credit_applied - invoice.amount_reduced
        )


def a_negative_line(line: InvoiceLine, net: int, tax: int) -> InvoiceLine:
    fields: dict[str, Any] = {
        **vars(line),
        "id": new_id(),
        "net": -net,
        "takes_back": line.id,
        "takes_back_tax": tax,
    }
    return InvoiceLine(**{k: v for k, v in fields.items() if not k.startswith("_")})


def entry_of(held: Taken) -> dict[str, Any]:
    return {"lines": {str(line.id): net for line, net in held.lines}, "taxes": held.taxes}


def an_open_invoice(charges: list[Charge], credit_applied: int) -> Invoice:
    invoice = Invoice(
        id=new_id(),
        account_id=new_id(),
        legal_entity_id=new_id(),
        subscription_id=None,
        billing_reason="subscription_cycle",
        billing_key=None,
        currency="EUR",
        created_at=START,
        supplied_at=START,
    )
    rates = {"standard": "19", "reduced": "7"}
    totals = compute(
        [Bundle(tuple(charges))], currency="EUR", decide=lambda name: taxed_at(rates[name])
    )
    invoice.fill(totals)
    invoice.credit_applied = min(credit_applied, invoice.total)
    invoice.finalize(number="INV-1", at=NOW, due_at=NOW)
    if not invoice.amount_due:
        invoice.receive(0, at=NOW, payment_id=None)
    return invoice


OPERATIONS: list[Callable[[Books, int], None]] = [
    Books.pay,
    Books.take_back,
    Books.take_back,
    Books.move,
    Books.let_be,
    Books.credit_by_staff,
    Books.credit_all,
    Books.refund_by_hand,
    Books.open_dispute,
    Books.win_dispute,
    Books.lose_dispute,
    Books.give_up,
    Books.void,
]

charges = st.lists(
    st.builds(
        lambda amount, behavior, category: a_charge(
            amount, tax_behavior=behavior, tax_category=category
        ),
        st.integers(0, 20_000),
        st.sampled_from(["exclusive", "inclusive"]),
        st.sampled_from(["standard", "reduced"]),
    ),
    min_size=1,
    max_size=4,
)
steps = st.lists(st.tuples(st.integers(0, len(OPERATIONS) - 1), st.integers(0, 100)), max_size=14)


@settings(max_examples=600, deadline=None)
@given(charges, st.sampled_from([0, 0, 500, 5_000]), steps)
def test_nothing_goes_back_twice_and_the_unpaid_goes_first(
    some: list[Charge], credit_applied: int, happens: list[tuple[int, int]]
) -> None:
    books = Books(an_open_invoice(some, credit_applied), some)

    for which, part in happens:
        OPERATIONS[which](books, part)
        books.check()


@settings(max_examples=200, deadline=None)
@given(charges, st.lists(st.integers(0, 100), min_size=1, max_size=6), st.booleans())
def test_taken_back_from_its_start_a_line_is_gone_whatever_went_before(
    some: list[Charge], since: list[int], is_paid: bool
) -> None:
    books = Books(an_open_invoice(some, 0), some)
    if is_paid:
        books.pay(100)

    for part in since:
        books.take_back(part)
    for n in range(len(some)):
        # `part` chooses the charge as well as the share: from the start, by hand.
        books._give(books._return_of(some[n], START))

    gone: dict[UUID, int] = defaultdict(int, books.earlier.net_of_line)
    assert all(gone[line.id] == line.net for line in books.invoice.lines)
    assert sum(note.total for note in books.notes) == books.invoice.total
    books.check()
