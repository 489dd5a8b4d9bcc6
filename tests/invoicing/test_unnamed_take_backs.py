"""What a release before take-backs gave back on a later invoice is found where it was billed.

Its change within a period stood on an invoice as a negative line, the unused time of what was held
before, that names no line; so that invoice came to less than what it charged. What it charged is
worth all of it: a part was paid with the invoice, and a part long before.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from services.invoicing.tables import invoice_lines, invoices
from shared.events.subscriptions import (
    Charge,
    SubscriptionChangeLapsed,
    SubscriptionChangePending,
    SubscriptionUsageBilled,
)
from shared.ids import new_id
from tests.eventlog import EventLog
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, Publish, body, until
from tests.invoicing.factories import END, START, a_charge, a_discount
from tests.invoicing.test_take_backs import EUR, HALF, Life, a_take_back, amounts

pytestmark = pytest.mark.servers

#: A third of the period is over.
SINCE = START + (END - START) / 3
Exempt = Callable[[], Awaitable["Before"]]


def held(amount: int, **fields: Any) -> Charge:
    """The price of the period, billed when it began."""
    return a_charge(amount, price_id=new_id(), why={"quantity": "1"}, **fields)


def unused(charge: Charge, amount: int, **fields: Any) -> Charge:
    """What that release gave back of it: an amount, and not of which line."""
    more = {"period_start": SINCE, "why": charge.why, "tax_behavior": charge.tax_behavior}
    return a_charge(
        -amount, kind="proration_credit", price_id=charge.price_id, **{**more, **fields}
    )


def rest(amount: int, **fields: Any) -> Charge:
    """What is held instead, for the rest of the period."""
    more = {"period_start": SINCE, **fields}
    return a_charge(
        amount, kind="proration_charge", price_id=new_id(), why={"quantity": "1"}, **more
    )


class Before(Life):
    """An account whose invoices that release made."""

    async def exempt(self) -> None:
        details = {"address": {"country": "DE"}, "exemption_reason": "Tried without tax"}
        body(await self.http.put("/v1/billing-details", json=details, headers=self.staff))

    async def begins(self, charge: Charge, **fields: Any) -> dict[str, Any]:
        invoice = await self.renew(charge, **fields)
        await self.forget()
        return invoice

    async def changes(self, *charges: Charge, **fields: Any) -> dict[str, Any]:
        invoice = await self.change(*charges, **fields)
        assert invoice is not None
        await self.forget()
        return await self.read(invoice["id"])

    async def forget(self) -> None:
        """That release kept no charge with a line."""
        mine = select(invoices.c.id).where(invoices.c.account_id == self.account_id)
        async with self.invoicing.runtime.begin() as uow:
            await uow.session.execute(
                update(invoice_lines)
                .where(invoice_lines.c.invoice_id.in_(mine))
                .values(charge_id=None)
            )

    async def remaining(self, invoice: dict[str, Any]) -> int:
        return int((await self.read(invoice["id"]))["amount_remaining"]["amount"])


@pytest.fixture
async def taxed(
    invoicing: Running,
    events: EventLog,
    publish: Publish,
    staff: dict[str, str],
    new_account: NewAccount,
) -> Before:
    """Of an account in Germany: 19 percent."""
    return Before(invoicing, events, publish, staff, await new_account())


@pytest.fixture
async def before(taxed: Before) -> Before:
    """Of an account that pays no tax."""
    await taxed.exempt()
    return taxed


async def test_all_that_a_change_charged_comes_back(before: Before) -> None:
    first, second = held(600), rest(1400)
    await before.pay(await before.begins(first))
    changed = await before.changes(unused(first, 400), second)
    assert changed["total"]["amount"] == 1000
    await before.pay(changed)

    await before.cancel(a_take_back(second, SINCE))

    assert await before.credit() == 1400
    assert [amounts(note)[0] for note in await before.notes()] == [400, 1000]


async def test_what_was_used_of_it_does_not(before: Before) -> None:
    first, second = held(600), rest(1400)
    await before.pay(await before.begins(first))
    await before.pay(await before.changes(unused(first, 400), second))

    await before.cancel(a_take_back(second, END - (END - SINCE) / 4))

    assert await before.credit() == 350
    assert len(await before.notes()) == 1


async def test_a_total_below_zero_was_given_before(before: Before) -> None:
    first, second = held(1000), rest(467)
    await before.pay(await before.begins(first))
    changed = await before.changes(unused(first, 667), second)
    assert (changed["total"]["amount"], await before.credit()) == (0, 200)

    await before.cancel(a_take_back(second, SINCE))

    assert await before.credit() == 200 + 467


async def test_of_what_a_year_charged_as_well(before: Before) -> None:
    first = held(1000)
    year = {"period_start": HALF, "period_end": HALF + timedelta(days=365)}
    second = held(10_000, **year)
    await before.pay(await before.begins(first))
    changed = await before.changes(unused(first, 500, period_start=HALF), second, **year)
    assert changed["total"]["amount"] == 9500
    await before.pay(changed)

    await before.cancel(a_take_back(second, HALF + timedelta(days=1)))

    assert await before.credit() == 9973


async def test_with_its_tax(taxed: Before) -> None:
    first, second = held(1000), rest(2000)
    await taxed.pay(await taxed.begins(first))
    changed = await taxed.changes(unused(first, 667), second)
    assert changed["total"]["amount"] == 1333 + 253
    await taxed.pay(changed)

    await taxed.cancel(a_take_back(second, SINCE))

    notes = await taxed.notes()
    assert await taxed.credit() == 2000 + 380
    assert (sum(n["net"]["amount"] for n in notes), sum(n["tax"]["amount"] for n in notes)) == (
        2000,
        380,
    )


async def test_with_the_tax_that_is_in_it(taxed: Before) -> None:
    first = held(1190, tax_behavior="inclusive")
    second = rest(2380, tax_behavior="inclusive")
    await taxed.pay(await taxed.begins(first))
    changed = await taxed.changes(unused(first, 793), second)
    assert changed["total"]["amount"] == 2380 - 793
    await taxed.pay(changed)

    await taxed.cancel(a_take_back(second, SINCE))

    assert await taxed.credit() == 2380
    assert sum(note["tax"]["amount"] for note in await taxed.notes()) == 380


async def test_with_the_tax_that_was_paid_where_that_changed(taxed: Before) -> None:
    """The first line bore none, and what that release gave back of it bore 19 percent."""
    await taxed.exempt()
    first, second = held(1000), rest(2000)
    await taxed.pay(await taxed.begins(first))
    details = {"address": {"country": "DE"}}
    body(await taxed.http.put("/v1/billing-details", json=details, headers=taxed.staff))
    changed = await taxed.changes(unused(first, 667), second)
    assert changed["total"]["amount"] == 1333 + 253
    await taxed.pay(changed)

    await taxed.cancel(a_take_back(second, SINCE))

    assert await taxed.credit() == 1333 + 253 + 667


async def test_what_a_coupon_took_off_was_never_paid(before: Before) -> None:
    first, second = held(1000), rest(2000)
    discount = a_discount(amount=900, currency=EUR)
    await before.pay(await before.begins(first, discounts=(discount,)))
    await before.pay(await before.changes(unused(first, 667), second))

    await before.cancel(a_take_back(second, SINCE))

    assert await before.credit() == 1333 + 67


async def test_more_was_given_before_than_was_paid(before: Before) -> None:
    """Of 1.00 that was paid that release gave 2.00: nothing comes on top."""
    first, second = held(1000), rest(467)
    discount = a_discount(amount=900, currency=EUR)
    await before.pay(await before.begins(first, discounts=(discount,)))
    await before.changes(unused(first, 667), second)
    assert await before.credit() == 200

    await before.cancel(a_take_back(second, SINCE))

    assert await before.credit() == 200


async def test_what_was_let_be_was_never_billed(before: Before) -> None:
    """1.00, to 1,000.00 without proration, and to 1,500.00: what was given back was not paid."""
    first, let_be, third = held(100), held(100_000), rest(100_000)
    await before.pay(await before.begins(first))
    changed = await before.changes(unused(let_be, 66_667), third)
    assert changed["total"]["amount"] == 33_333
    await before.pay(changed)

    await before.cancel(a_take_back(third, SINCE), a_take_back(first, SINCE))

    assert await before.credit() == 33_333 + 67


async def test_of_a_change_paid_in_part_the_unpaid_goes_first(before: Before) -> None:
    first, second = held(1000), rest(2000)
    await before.pay(await before.begins(first))
    changed = await before.changes(unused(first, 667), second)
    await before.pay_by_hand(changed, amount=500)

    await before.cancel(a_take_back(second, SINCE))

    of_first, of_change = await before.notes()
    assert amounts(of_first) == (667, 0, 0, 667, 0)
    assert amounts(of_change) == (1333, 833, 0, 500, 0)
    assert (await before.credit(), await before.remaining(changed)) == (500 + 667, 0)


async def test_what_was_never_paid_before_is_not_owed_any_more(before: Before) -> None:
    first, second = held(1000), rest(2000)
    begun = await before.begins(first)
    await before.pay(await before.changes(unused(first, 667), second))

    await before.cancel(a_take_back(second, SINCE))

    assert await before.credit() == 1333
    assert await before.remaining(begun) == 333


async def test_of_one_change_after_the_other(before: Before) -> None:
    first, second, third = held(1000), rest(2000), rest(6667)
    await before.pay(await before.begins(first))
    await before.pay(await before.changes(unused(first, 667), second))
    await before.pay(await before.changes(unused(second, 2000), third))

    await before.cancel(a_take_back(third, SINCE))

    assert await before.credit() == 6667
    assert [amounts(note)[0] for note in await before.notes()] == [667, 1333, 4667]


async def test_what_was_given_back_on_its_own_invoice_is_found_there(before: Before) -> None:
    """Two changes that waited for the next invoice."""
    first, second, third = held(1000), rest(2000), rest(1000, period_start=HALF)
    await before.pay(await before.begins(first))
    of_second = unused(second, 1500, period_start=HALF)
    changed = await before.changes(unused(first, 667), second, of_second, third)
    assert changed["total"]["amount"] == 833
    await before.pay(changed)

    await before.cancel(a_take_back(third, HALF))

    assert await before.credit() == 833 + 167
    again = await before.staff_note(changed, settle="credit")
    assert again.status_code == 409


@pytest.mark.parametrize("again", [800, 0])
async def test_usage_that_was_corrected_before_is_worth_what_was_left(
    before: Before, again: int
) -> None:
    """Of 12.00 that release gave 2.00 back; now it is to be what is owed, or nothing."""
    window = {"kind": "usage", "price_id": new_id(), "period_start": START, "period_end": END}
    used = a_charge(1200, **window)
    later = {"period_start": END, "period_end": END + (END - START)}
    await before.pay(await before.begins(used))
    corrected = await before.changes(a_charge(-200, **window), held(3000, **later), **later)
    assert corrected["total"]["amount"] == 2800
    await before.pay(corrected)

    charges = (a_charge(again, **window),) if again else ()
    await before.bill(
        before.event(SubscriptionUsageBilled, charges=charges, take_backs=(a_take_back(used),))
    )

    assert await before.credit() == 1000 - again


async def test_a_note_on_all_of_it_left_what_was_paid_before(before: Before) -> None:
    first, second = held(1000), rest(2000)
    await before.pay(await before.begins(first))
    changed = await before.changes(unused(first, 667), second)
    await before.pay(changed)
    note = body(await before.staff_note(changed, settle="credit"))
    assert note["total"]["amount"] == 1333

    await before.cancel(a_take_back(second, SINCE))

    assert await before.credit() == 2000


async def test_what_came_back_is_not_given_again_by_hand(before: Before) -> None:
    first, second = held(1000), rest(2000)
    begun = await before.begins(first)
    await before.pay(begun)
    changed = await before.changes(unused(first, 667), second)
    await before.pay(changed)
    await before.cancel(a_take_back(second, SINCE))

    assert (await before.staff_note(changed, settle="credit")).status_code == 409
    assert (await before.staff_note(begun, settle="credit")).status_code == 201

    assert await before.credit() == 2333


async def test_a_change_takes_it_back_on_its_own_invoice(before: Before) -> None:
    first, second, third = held(1000), rest(2000), rest(3333)
    await before.pay(await before.begins(first))
    await before.pay(await before.changes(unused(first, 667), second))

    made = await before.change(third, take_backs=(a_take_back(second, SINCE),))

    assert made is not None
    assert made["total"]["amount"] == 3333 - 2000
    assert [line["amount"]["amount"] for line in made["lines"]] == [3333, -667, -1333]
    assert (await before.notes(), await before.credit()) == ([], 0)
    await before.pay(made)
    await before.cancel(a_take_back(third, SINCE))
    assert await before.credit() == 3333


@pytest.mark.parametrize("paid", [True, False])
async def test_a_change_that_waits_takes_it_back_once(before: Before, *, paid: bool) -> None:
    first, second, third = held(1000), rest(467), rest(3333)
    await before.pay(await before.begins(first))
    await before.changes(unused(first, 667), second)
    change_id: UUID = new_id()
    pending = before.event(
        SubscriptionChangePending,
        charges=(third,),
        take_backs=(a_take_back(second, SINCE),),
        change_id=change_id,
    )
    invoice = await before.bill(pending)
    assert invoice is not None
    assert invoice["total"]["amount"] == 3333 - 467
    assert await before.credit() == 0  # what that release gave has paid a part

    if paid:
        await before.pay(invoice)
        await before.cancel(a_take_back(third, SINCE))
        assert await before.credit() == 3333
        return
    lapsed = SubscriptionChangeLapsed(
        occurred_at=SINCE,
        account_id=before.account_id,
        sequence=1,
        subscription_id=before.subscription_id,
        change_id=change_id,
    )
    await before.publish(lapsed)

    async def is_void() -> bool:
        return bool((await before.read(invoice["id"]))["status"] == "void")

    await until(is_void)
    await before.cancel(a_take_back(second, SINCE))
    assert await before.credit() == 200 + 467
