"""What was billed is taken back by name: worth what its line came to, and given once."""

import asyncio
import csv
import io
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from services.invoicing.use_cases.bill_subscription import bill_subscription, prepare_billing
from shared.events.invoicing import (
    CreditNoteIssued,
    InvoiceFinalized,
    InvoicePaid,
    InvoiceReduced,
    InvoiceVoided,
)
from shared.events.payments import DisputeLost, DisputeWon
from shared.events.subscriptions import (
    Billable,
    Charge,
    SubscriptionCanceled,
    SubscriptionChanged,
    SubscriptionChangeLapsed,
    SubscriptionChangePending,
    SubscriptionUsageBilled,
    TakeBack,
)
from shared.ids import new_id
from shared.money import Money
from tests.eventlog import EventLog
from tests.harness import Running
from tests.invoicing.conftest import NewAccount, Publish, body, key, until
from tests.invoicing.factories import END, START, a_charge, a_discount, a_renewed
from tests.invoicing.test_bill_subscription import a_payment
from tests.invoicing.test_returns import a_dispute, a_refund
from tests.tokens import TokenIssuer

pytestmark = pytest.mark.servers

EUR = "EUR"
#: Two thirds of the period are over: of 31 days 10 1/3 are left.
LAST_THIRD = START + (END - START) * 2 / 3
HALF = START + (END - START) / 2


def a_take_back(charge: Charge, since: datetime = START, **fields: Any) -> TakeBack:
    usual: dict[str, Any] = {
        "id": new_id(),
        "charge_id": charge.id,
        "starts_at": since,
        "kind": charge.kind,
        "price_id": charge.price_id,
        "period_start": charge.period_start,
        "period_end": charge.period_end,
        "description": "Unused time on Pro",
        "why": {"steps": [{"rule": "the rest of the period", "sense": "take_back"}]},
    }
    return TakeBack(**{**usual, **fields})


class Life:
    """One account with one subscription, whose events are handled as the consumer does."""

    def __init__(
        self,
        invoicing: Running,
        events: EventLog,
        publish: Publish,
        staff: dict[str, str],
        account_id: UUID,
    ) -> None:
        self.invoicing, self.events, self.publish = invoicing, events, publish
        self.http = invoicing.http
        self.account_id = account_id
        self.staff = staff | {"Perennial-Account": str(account_id)}
        self.subscription_id = new_id()
        self.sequence = 0

    def event(self, kind: type[Billable], **fields: Any) -> Any:
        self.sequence += 1
        usual = a_renewed(self.account_id, self.subscription_id, charges=()).model_dump(
            exclude={"id", "sequence"}
        )
        more: dict[type[Billable], dict[str, Any]] = {
            SubscriptionChanged: {"previous_price_id": new_id(), "quantity": 1},
            SubscriptionCanceled: {"effective_at": START},
            SubscriptionChangePending: {"change_id": new_id(), "expires_at": END},
        }
        given = {**usual, "sequence": self.sequence, **more.get(kind, {}), **fields}
        return kind(**given)

    async def bill(self, event: Billable) -> dict[str, Any] | None:
        """Handle it in a transaction of its own; the invoice that it made."""
        async with self.invoicing.runtime.begin() as uow:
            await prepare_billing(uow, [event])
            made = await bill_subscription(uow, event)
        return await self.read(str(made.id)) if made else None

    async def renew(self, *charges: Charge, **fields: Any) -> dict[str, Any]:
        event = a_renewed(
            self.account_id, self.subscription_id, sequence=1, charges=charges, **fields
        )
        invoice = await self.bill(event)
        assert invoice is not None
        return invoice

    async def change(self, *charges: Charge, **fields: Any) -> dict[str, Any] | None:
        return await self.bill(self.event(SubscriptionChanged, charges=charges, **fields))

    async def cancel(self, *take_backs: TakeBack, **fields: Any) -> dict[str, Any] | None:
        event = self.event(SubscriptionCanceled, take_backs=take_backs, **fields)
        return await self.bill(event)

    async def read(self, invoice_id: str) -> dict[str, Any]:
        found = body(await self.http.get(f"/v1/invoices/{invoice_id}", headers=self.staff))
        assert isinstance(found, dict)
        return found

    async def notes(self, **query: str) -> list[dict[str, Any]]:
        found = body(await self.http.get("/v1/credit-notes", params=query, headers=self.staff))
        return list(reversed(found["data"]))

    async def credit(self) -> int:
        found = body(await self.http.get("/v1/account-credit", headers=self.staff))
        return sum(one["amount"] for one in found["balances"])

    async def pay(self, invoice: dict[str, Any], amount: int | None = None) -> None:
        """By a provider."""
        finalized = await self.events.next(InvoiceFinalized, about=UUID(invoice["id"]))
        await self.publish(a_payment(finalized, amount))

        async def counted() -> bool:
            now = await self.read(invoice["id"])
            return bool(now["amount_paid"]["amount"])

        await until(counted)

    async def pay_by_hand(self, invoice: dict[str, Any], **what: Any) -> None:
        path = f"/v1/invoices/{invoice['id']}/mark-paid"
        body(await self.http.post(path, json=what, headers=self.staff))

    async def staff_note(self, invoice: dict[str, Any], **what: Any) -> httpx.Response:
        wanted = {"invoice_id": invoice["id"], "reason": "Sorry", **what}
        return await self.http.post("/v1/credit-notes", json=wanted, headers=self.staff | key())

    async def tell(self, told: Sequence[Any], invoice: dict[str, Any], name: str, is_: int) -> None:
        for event in told:
            await self.publish(event)

        async def counted() -> bool:
            return bool((await self.read(invoice["id"]))[name]["amount"] == is_)

        await until(counted)


@pytest.fixture
async def life(
    invoicing: Running,
    events: EventLog,
    publish: Publish,
    staff: dict[str, str],
    new_account: NewAccount,
) -> Life:
    """Of an account in Germany: 19 percent."""
    return Life(invoicing, events, publish, staff, await new_account())


def amounts(note: dict[str, Any]) -> tuple[int, ...]:
    """Total, reduction, what had gone back, credit, refund."""
    names = ("total", "reduction", "returned_before", "credit", "refund")
    return tuple(note[name]["amount"] for name in names)


async def test_of_a_line_goes_back_what_it_came_to_after_its_discount(life: Life) -> None:
    """10.00 less 9.00 was 1.00; all of it goes back, and no 10.00."""
    charge = a_charge(1000)
    invoice = await life.renew(charge, discounts=(a_discount(amount=900, currency=EUR),))
    await life.pay(invoice)

    assert await life.cancel(a_take_back(charge)) is None

    [note] = await life.notes()
    assert (note["net"]["amount"], note["tax"]["amount"]) == (100, 19)
    assert amounts(note) == (119, 0, 0, 119, 0)
    assert await life.credit() == 119
    assert note["reason"] == note["lines"][0]["description"] == "Unused time on Pro"


async def test_a_share_is_rounded_once_and_has_the_tax_of_its_line(life: Life) -> None:
    charge = a_charge(1000)
    await life.pay(await life.renew(charge))

    await life.cancel(a_take_back(charge, LAST_THIRD), give_back="refund")

    [note] = await life.notes()
    assert (note["net"]["amount"], note["tax"]["amount"]) == (333, 63)
    assert amounts(note) == (396, 0, 0, 0, 396)
    line = note["lines"][0]
    assert datetime.fromisoformat(line["starts_at"]) == LAST_THIRD
    assert line["why"]["steps"][0]["sense"] == "take_back"


async def test_a_note_names_the_line_that_it_takes_back_and_its_tax(life: Life) -> None:
    charge, other = a_charge(1000), a_charge(500)
    invoice = await life.renew(other, charge)
    await life.pay(invoice)

    await life.cancel(a_take_back(charge, LAST_THIRD))

    [note] = await life.notes()
    why = note["lines"][0]["why"]
    assert why["tax"] == invoice["lines"][1]["why"]["tax"]
    taken = why["taken_back"]
    assert (taken["invoice"], taken["line"]) == (invoice["number"], 2)
    assert (taken["whole"], taken["fraction"], taken["amount"]) == (1000, "1/3", 333)


async def test_a_negative_line_says_which_tax_it_bears(life: Life) -> None:
    first, second = a_charge(1000), a_charge(3000)
    invoice = await life.renew(first)
    await life.pay(invoice)

    earlier = await life.change(second, take_backs=(a_take_back(first, HALF),))
    third = a_charge(2000)
    beside = await life.change(third, take_backs=(a_take_back(third, HALF),))

    assert earlier is not None
    why = earlier["lines"][1]["why"]
    assert why["tax"] == invoice["lines"][0]["why"]["tax"]
    assert (why["taken_back"]["invoice"], why["taken_back"]["line"]) == (invoice["number"], 1)
    assert beside is not None
    why = beside["lines"][1]["why"]
    assert why["tax"] == beside["lines"][0]["why"]["tax"]
    assert (why["taken_back"].get("invoice"), why["taken_back"]["line"]) == (None, 1)


async def test_an_export_says_what_is_not_owed_any_more(life: Life, issuer: TokenIssuer) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay_by_hand(invoice, amount=200)
    await life.cancel(a_take_back(charge, LAST_THIRD))

    period = {"from": "2020-01-01T00:00:00Z", "to": "2040-01-01T00:00:00Z"}
    answer = await life.http.get(
        "/v1/exports/invoices", params=period, headers=issuer.of_account(life.account_id)
    )
    row, total = csv.DictReader(io.StringIO(answer.text))
    for one in (row, total):
        assert one["total"] == "11.90"
        assert (one["amount_paid"], one["amount_credited"]) == ("2.00", "3.96")
        assert one["amount_reduced"] == "3.96"


async def test_of_a_price_with_its_tax_the_gross_is_shared(life: Life) -> None:
    charge = a_charge(1190, tax_behavior="inclusive")
    await life.pay(await life.renew(charge))

    await life.cancel(a_take_back(charge, LAST_THIRD))
    await life.cancel(a_take_back(charge), period_start=END)

    third, rest = await life.notes()
    assert (third["net"]["amount"], third["tax"]["amount"]) == (334, 63)
    assert third["total"]["amount"] + rest["total"]["amount"] == 1190
    assert third["tax"]["amount"] + rest["tax"]["amount"] == 190


async def test_a_later_change_of_the_tax_is_not_that_of_the_line(
    life: Life,
) -> None:
    """Billed without tax as a business abroad; the number is removed, and nothing is added."""
    details = {"name": "SAS", "address": {"country": "FR"}, "vat_id": "FR40303265045"}
    await life.http.put("/v1/billing-details", json=details, headers=life.staff)
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    assert invoice["total"]["amount"] == 1000
    await life.pay(invoice)
    await life.http.put("/v1/billing-details", json={**details, "vat_id": None}, headers=life.staff)

    await life.cancel(a_take_back(charge))

    [note] = await life.notes()
    assert (note["tax"]["amount"], note["total"]["amount"]) == (0, 1000)


async def test_what_a_credit_note_took_back_before_is_not_given_again(life: Life) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay(invoice)
    assert (await life.staff_note(invoice, settle="credit")).status_code == 201

    await life.cancel(a_take_back(charge))

    assert await life.credit() == 1190
    assert len(await life.notes()) == 1


async def test_a_part_that_went_back_before_counts_toward_the_share(life: Life) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay(invoice)
    await life.staff_note(invoice, amount=238, settle="credit")

    await life.cancel(a_take_back(charge, HALF))
    await life.cancel(a_take_back(charge, HALF), period_start=END)

    assert [note["net"]["amount"] for note in await life.notes()] == [200, 300]
    assert await life.credit() == 238 + 357


async def test_what_was_refunded_by_hand_is_not_given_again(life: Life) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay(invoice)
    ids: dict[str, Any] = {"invoice_id": UUID(invoice["id"]), "account_id": life.account_id}
    await life.tell(a_refund(1000, **ids), invoice, "amount_returned", 1000)

    await life.cancel(a_take_back(charge))

    [note] = await life.notes()
    assert amounts(note) == (1190, 0, 1000, 190, 0)
    assert await life.credit() == 190


async def test_an_unpaid_invoice_is_reduced_to_what_was_used(life: Life, events: EventLog) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)

    await life.cancel(a_take_back(charge, LAST_THIRD))

    [note] = await life.notes()
    assert amounts(note) == (396, 396, 0, 0, 0)
    told = await events.next(InvoiceReduced, about=UUID(invoice["id"]))
    assert (told.amount_reduced, told.amount_remaining) == (Money(396, EUR), Money(794, EUR))
    now = await life.read(invoice["id"])
    assert now["status"] == "open"
    assert now["amount_due"]["amount"] == 1190
    assert now["amount_remaining"]["amount"] == 794
    assert await life.credit() == 0

    await life.pay(invoice, 794)
    paid = await events.next(InvoicePaid, about=UUID(invoice["id"]))
    assert (paid.amount_paid, paid.amount_reduced) == (Money(794, EUR), Money(396, EUR))


async def test_one_of_which_nothing_was_used_owes_nothing_any_more(
    life: Life, events: EventLog
) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)

    await life.cancel(a_take_back(charge))

    paid = await events.next(InvoicePaid, about=UUID(invoice["id"]))
    assert (paid.payment_id, paid.amount_paid) == (None, Money(0, EUR))
    assert paid.amount_reduced == paid.total
    assert (await life.read(invoice["id"]))["status"] == "paid"


async def test_of_what_was_paid_in_part_the_unpaid_goes_first(life: Life) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay_by_hand(invoice, amount=900)

    await life.cancel(a_take_back(charge, HALF))

    [note] = await life.notes()
    assert amounts(note) == (595, 290, 0, 305, 0)
    assert await life.credit() == 305
    assert (await life.read(invoice["id"]))["status"] == "paid"


async def test_a_void_line_is_worth_nothing_and_one_given_up_owes_less(life: Life) -> None:
    first, second = a_charge(1000), a_charge(2000, period_start=END, period_end=END + (END - START))
    void = await life.renew(first)
    body(await life.http.post(f"/v1/invoices/{void['id']}/void", headers=life.staff))
    given_up = await life.renew(second, period_start=END)
    path = f"/v1/invoices/{given_up['id']}/mark-uncollectible"
    body(await life.http.post(path, headers=life.staff))

    await life.cancel(a_take_back(first), a_take_back(second, END + (END - START) / 2))

    [note] = await life.notes()
    assert note["invoice_id"] == given_up["id"]
    assert amounts(note) == (1190, 1190, 0, 0, 0)
    now = await life.read(given_up["id"])
    assert (now["status"], now["amount_remaining"]["amount"]) == ("uncollectible", 1190)
    assert await life.credit() == 0


async def test_a_charge_is_billed_beside_what_it_takes_back(life: Life) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    first = await life.renew(old)
    await life.pay(first)

    invoice = await life.change(new, take_backs=(a_take_back(old, HALF),))

    assert invoice is not None
    assert invoice["total"]["amount"] == 5950 - 595
    charged, taken = invoice["lines"]
    assert taken["net"]["amount"] == -500
    assert taken["takes_back"] == first["lines"][0]["id"]
    assert (taken["kind"], taken["description"]) == ("proration_credit", "Unused time on Pro")
    assert charged["charge_id"] == str(new.id)
    assert (await life.read(first["id"]))["amount_moved"]["amount"] == 595
    assert await life.notes() == []


async def test_what_paid_a_later_invoice_comes_back_with_it(life: Life) -> None:
    """10.00 and then 45.00 were paid, and half of the 10.00 was used: 50.00 go back."""
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    await life.pay(await life.renew(old))
    second = await life.change(new, take_backs=(a_take_back(old, HALF),))
    assert second is not None
    await life.pay(second)

    await life.cancel(a_take_back(old, HALF), a_take_back(new, HALF), effective_at=HALF)

    assert await life.credit() == 5950


async def test_what_does_not_fit_is_a_credit_note_that_pays_the_charge(life: Life) -> None:
    old, new = a_charge(5000), a_charge(500, period_start=HALF, kind="proration_charge")
    await life.pay(await life.renew(old))

    invoice = await life.change(new, take_backs=(a_take_back(old, HALF),))

    assert invoice is not None
    [note] = await life.notes()
    assert amounts(note) == (2975, 0, 0, 2975, 0)
    assert [line["net"]["amount"] for line in invoice["lines"]] == [500]
    assert (invoice["status"], invoice["credit_applied"]["amount"]) == ("paid", 595)
    assert await life.credit() == 2975 - 595


async def test_another_rate_of_tax_stands_on_a_note_of_its_own(life: Life) -> None:
    old = a_charge(1000)
    new = a_charge(5000, period_start=HALF, tax_category="reduced")
    await life.pay(await life.renew(old))

    invoice = await life.change(new, take_backs=(a_take_back(old, HALF),))

    assert invoice is not None
    [note] = await life.notes()
    assert [group["rate"] for group in note["taxes"]] == ["19"]
    assert invoice["total"]["amount"] == 5350
    assert invoice["credit_applied"]["amount"] == note["credit"]["amount"] == 595


async def test_an_open_invoice_is_reduced_and_the_charge_stands_alone(life: Life) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    first = await life.renew(old)

    invoice = await life.change(new, take_backs=(a_take_back(old, HALF),))

    assert invoice is not None
    assert invoice["total"]["amount"] == 5950
    assert (await life.read(first["id"]))["amount_remaining"]["amount"] == 595
    assert await life.credit() == 0


async def test_what_a_voided_invoice_took_back_is_there_again(life: Life) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    first = await life.renew(old)
    await life.pay(first)
    second = await life.change(new, take_backs=(a_take_back(old, HALF),))
    assert second is not None

    path = f"/v1/invoices/{second['id']}"
    body(await life.http.post(f"{path}/void", headers=life.staff))
    assert (await life.read(first["id"]))["amount_moved"]["amount"] == 0
    again = body(await life.http.post(f"{path}/reissue", headers=life.staff | key()))
    twice = await life.http.post(f"{path}/reissue", headers=life.staff | key())

    assert (again["status"], again["total"]) == ("draft", second["total"])
    assert twice.status_code == 409
    assert twice.json()["code"] == "invoice-reissued-already"
    assert again["id"] in twice.json()["detail"]
    finalized = body(
        await life.http.post(f"/v1/invoices/{again['id']}/finalize", headers=life.staff)
    )
    assert finalized["lines"][1]["takes_back"] == first["lines"][0]["id"]
    assert finalized["lines"][0]["charge_id"] == str(new.id)
    assert (await life.read(first["id"]))["amount_moved"]["amount"] == 595
    # The charge is found on the new one.
    await life.cancel(a_take_back(new, HALF))
    assert (await life.read(again["id"]))["status"] == "paid"


async def test_made_again_after_all_went_back_it_takes_nothing_more(life: Life) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    first = await life.renew(old)
    await life.pay(first)
    second = await life.change(new, take_backs=(a_take_back(old, HALF),))
    assert second is not None
    path = f"/v1/invoices/{second['id']}"
    await life.http.post(f"{path}/void", headers=life.staff)
    await life.staff_note(first, settle="credit")

    again = body(await life.http.post(f"{path}/reissue", headers=life.staff | key()))
    finalized = body(
        await life.http.post(f"/v1/invoices/{again['id']}/finalize", headers=life.staff)
    )

    assert finalized["total"]["amount"] == 5950
    assert finalized["credit_applied"]["amount"] == 1190
    assert await life.credit() == 0


async def test_charges_that_wait_are_taken_back_where_they_wait(life: Life) -> None:
    waits = a_charge(300)
    await life.change(waits, invoice_now=False)

    await life.bill(
        life.event(SubscriptionUsageBilled, take_backs=(a_take_back(waits, LAST_THIRD),))
    )
    invoice = await life.renew(a_charge(1000), discounts=())

    assert [line["net"]["amount"] for line in invoice["lines"]] == [300, 1000, -100]
    assert invoice["lines"][2]["takes_back"] == invoice["lines"][0]["id"]
    assert await life.notes() == []


async def test_a_take_back_may_wait_as_well(life: Life) -> None:
    old, waits = a_charge(1000), a_charge(3000, period_start=HALF)
    first = await life.renew(old)
    await life.pay(first)
    await life.change(waits, invoice_now=False, take_backs=(a_take_back(old, HALF),))
    assert await life.notes() == []

    later = END + (END - START)
    invoice = await life.renew(
        a_charge(2000, period_start=END, period_end=later), period_start=END, period_end=later
    )

    assert [line["net"]["amount"] for line in invoice["lines"]] == [3000, 2000, -500]
    assert (await life.read(first["id"]))["amount_moved"]["amount"] == 595


async def test_what_is_on_the_same_bill_is_a_negative_line_of_it(life: Life) -> None:
    charge = a_charge(1000)
    half_off = a_discount(percent="50")

    invoice = await life.renew(
        charge, discounts=(half_off,), take_backs=(a_take_back(charge, HALF),)
    )

    assert [line["net"]["amount"] for line in invoice["lines"]] == [500, -250]
    assert invoice["total"]["amount"] == 298  # 250 and 19 percent
    await life.pay(invoice)
    await life.cancel(a_take_back(charge, START))
    [note] = await life.notes()
    assert note["total"]["amount"] == 298


async def test_in_a_draft_it_is_taken_back_there(life: Life, staff: dict[str, str]) -> None:
    entity = {"name": "Slow GmbH", "country": "DE", "draft_hours": 240}
    made = body(await life.http.post("/v1/legal-entities", json=entity, headers=staff))
    details = {"legal_entity_id": made["id"]}
    await life.http.put("/v1/billing-details", json=details, headers=life.staff)
    charge = a_charge(1000)
    draft = await life.renew(charge, occurred_at=END + timedelta(days=3650))
    assert draft["status"] == "draft"

    await life.cancel(a_take_back(charge, HALF))

    now = await life.read(draft["id"])
    assert [line["net"]["amount"] for line in now["lines"]] == [1000, -500]
    finalized = body(
        await life.http.post(f"/v1/invoices/{draft['id']}/finalize", headers=life.staff)
    )
    assert finalized["total"]["amount"] == 595
    assert await life.notes() == []


async def test_a_discount_counts_for_the_charges_that_it_names(life: Life) -> None:
    monthly, yearly = a_charge(1000), a_charge(20000)
    half = a_discount(percent="50", charge_ids=(monthly.id,))

    invoice = await life.renew(monthly, yearly, discounts=(half,))

    assert [line["discount"]["amount"] for line in invoice["lines"]] == [500, 0]


async def test_a_line_of_an_earlier_release_is_found_by_what_it_says(
    life: Life, invoicing: Running
) -> None:
    charge = a_charge(1000, price_id=new_id())
    invoice = await life.renew(charge)
    async with invoicing.runtime.begin() as uow:
        found = await uow.invoices.get(UUID(invoice["id"]))
        found.lines[0].charge_id = None

    made_up = charge.model_copy(update={"id": new_id()})
    await life.cancel(a_take_back(made_up, HALF))

    [note] = await life.notes()
    assert note["net"]["amount"] == 500


async def test_what_was_never_billed_is_worth_nothing(life: Life) -> None:
    await life.renew(a_charge(1000))

    assert await life.cancel(a_take_back(a_charge(5000, price_id=new_id()))) is None

    assert await life.notes() == []


async def test_what_a_bank_holds_is_given_when_the_dispute_is_won(
    life: Life,
) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay(invoice)
    ids: dict[str, Any] = {"invoice_id": UUID(invoice["id"]), "account_id": life.account_id}
    opened, won = a_dispute(1000, **ids, ends=DisputeWon)
    await life.tell([opened], invoice, "amount_disputed", 1000)

    await life.cancel(a_take_back(charge))

    [note] = await life.notes()
    assert amounts(note) == (190, 0, 0, 190, 0)
    assert (await life.read(invoice["id"]))["amount_withheld"]["amount"] == 1000
    # Nothing more while it is open, whoever asks.
    assert (await life.staff_note(invoice)).status_code == 409
    await life.cancel(a_take_back(charge), period_start=END)

    await life.tell([won], invoice, "amount_withheld", 0)

    assert [amounts(note) for note in await life.notes()][1:] == [(1000, 0, 0, 1000, 0)]
    assert await life.credit() == 1190


async def test_what_a_bank_has_taken_for_good_is_not_given_as_well(life: Life) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay(invoice)
    ids: dict[str, Any] = {"invoice_id": UUID(invoice["id"]), "account_id": life.account_id}
    opened, lost = a_dispute(1190, **ids, ends=DisputeLost)
    await life.tell([opened], invoice, "amount_disputed", 1190)
    await life.cancel(a_take_back(charge, HALF), give_back="refund")
    assert await life.notes() == []

    await life.tell([lost], invoice, "amount_withheld", 0)

    [note] = await life.notes()
    assert amounts(note) == (595, 0, 595, 0, 0)


async def test_usage_is_billed_once_for_each_report(life: Life) -> None:
    first = life.event(SubscriptionUsageBilled, charges=(a_charge(500, kind="usage"),))
    second = life.event(SubscriptionUsageBilled, charges=(a_charge(700, kind="usage"),))

    made = [await life.bill(one) for one in (first, first, second)]

    assert [one["billing_reason"] if one else None for one in made] == [
        "subscription_usage",
        None,
        "subscription_usage",
    ]


async def test_a_change_that_waits_is_paid_with_what_it_takes_back(life: Life) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    first = await life.renew(old)
    await life.pay(first)
    pending = life.event(
        SubscriptionChangePending, charges=(new,), take_backs=(a_take_back(old, HALF),)
    )

    invoice = await life.bill(pending)
    again = await life.bill(pending.model_copy(update={"id": new_id(), "sequence": 77}))

    assert again is None
    assert invoice is not None
    assert invoice["billing_reason"] == "subscription_pending_change"
    assert (invoice["status"], invoice["total"]["amount"]) == ("open", 5355)


@pytest.mark.parametrize("paid", [False, True])
async def test_a_change_that_lapses_is_not_owed_and_its_money_goes_back(
    *, life: Life, events: EventLog, publish: Publish, paid: bool
) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, kind="proration_charge")
    first = await life.renew(old)
    await life.pay(first)
    pending = life.event(
        SubscriptionChangePending, charges=(new,), take_backs=(a_take_back(old, HALF),)
    )
    invoice = await life.bill(pending)
    assert invoice is not None
    if paid:
        await life.pay(invoice)

    await publish(
        SubscriptionChangeLapsed(
            occurred_at=END,
            account_id=life.account_id,
            sequence=1,
            subscription_id=life.subscription_id,
            change_id=pending.change_id,
        )
    )

    if paid:
        note = await events.next(CreditNoteIssued, about=life.account_id)
        assert note.refund == note.total == Money(5355, EUR)
    else:
        await events.next(InvoiceVoided, about=UUID(invoice["id"]))
    assert (await life.read(first["id"]))["amount_moved"]["amount"] == 0
    # The old charge is owed as before, and may be taken back as before.
    await life.cancel(a_take_back(old, HALF))
    assert await life.credit() == 595


async def test_what_does_not_fit_on_a_change_that_waits_is_given_once_it_is_paid(
    life: Life,
) -> None:
    old, new = a_charge(1000), a_charge(5000, period_start=HALF, tax_category="reduced")
    await life.pay(await life.renew(old))
    pending = life.event(
        SubscriptionChangePending, charges=(new,), take_backs=(a_take_back(old, HALF),)
    )

    invoice = await life.bill(pending)

    assert invoice is not None
    assert invoice["total"]["amount"] == invoice["amount_due"]["amount"] == 5350
    assert await life.notes() == []
    await life.pay(invoice)
    assert await life.credit() == 595


async def test_staff_may_credit_an_open_invoice(life: Life, events: EventLog) -> None:
    invoice = await life.renew(a_charge(1000))

    part = body(await life.staff_note(invoice, amount=190))
    more = await life.staff_note(invoice, amount=1001)
    rest = body(await life.staff_note(invoice))

    assert amounts(part) == (190, 190, 0, 0, 0)
    assert more.status_code == 409
    assert amounts(rest) == (1000, 1000, 0, 0, 0)
    assert (await life.read(invoice["id"]))["status"] == "paid"
    assert (await events.next(InvoicePaid, about=UUID(invoice["id"]))).amount_paid.amount == 0


async def test_many_at_once_give_it_once(life: Life) -> None:
    charge = a_charge(1000)
    invoice = await life.renew(charge)
    await life.pay(invoice)
    cancels = [
        life.event(SubscriptionCanceled, take_backs=(a_take_back(charge, HALF),)) for _ in range(4)
    ]

    await asyncio.gather(
        *[life.bill(event) for event in cancels],
        *[life.staff_note(invoice, amount=400, settle="credit") for _ in range(4)],
    )

    notes = await life.notes()
    assert sum(note["total"]["amount"] for note in notes) <= 1190
    assert await life.credit() == sum(note["credit"]["amount"] for note in notes)
