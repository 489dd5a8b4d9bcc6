"""One invoice for several subscriptions: each follows it, and tells of it."""

from typing import Any
from uuid import UUID

from shared.events.payments import DunningExhausted, DunningStarted
from shared.ids import new_id
from tests.subscriptions.conftest import Customer, Publish, Shop, until
from tests.subscriptions.test_subscriptions import (
    an_active_one,
    finalized,
    invoice_of,
    paid,
    reaches,
)


async def test_all_follow_the_invoice_that_they_share_in_any_order(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    price = await shop.price()
    both = [await an_active_one(customer, publish, price) for _ in range(2)]
    shared = invoice_of(both[0], subscription_id=None)
    billed = {"subscription_ids": tuple(UUID(one["id"]) for one in both)}
    dunning: dict[str, Any] = {"dunning_id": new_id(), "payment_id": new_id()}

    # Payments does not know whom an invoice bills; here it is told before invoicing tells that.
    await publish(DunningStarted(**shared, **dunning, sequence=1, decline_class="retry_later"))
    await publish(finalized(shared | billed, "subscription_cycle"))
    for subscription in both:
        await reaches(customer, subscription, "past_due")
    await publish(paid(shared | billed, "subscription_cycle"))

    for subscription in both:
        active = await reaches(customer, subscription, "active")
        # Its own first invoice may come later, where invoicing runs beside this.
        assert active["latest_invoice_id"] >= str(shared["invoice_id"])

        async def whole(path: str = f"/v1/subscriptions/{subscription['id']}/timeline") -> Any:
            timeline = (await customer.get(path))["data"]
            names = [
                entry["name"]
                for entry in timeline
                if entry["data"].get("invoice_id") == str(shared["invoice_id"])
            ]
            return names if len(names) == 3 else None

        assert set(await until(whole)) == {"dunning.started", "invoice.finalized", "invoice.paid"}


async def test_when_dunning_of_it_comes_to_nothing_all_end(
    customer: Customer, shop: Shop, publish: Publish
) -> None:
    price = await shop.price()
    both = [await an_active_one(customer, publish, price) for _ in range(2)]
    shared = invoice_of(both[0], subscription_id=None)
    billed = {"subscription_ids": tuple(UUID(one["id"]) for one in both)}

    await publish(finalized(shared | billed, "subscription_cycle"))
    await publish(
        DunningExhausted(
            **shared, dunning_id=new_id(), payment_id=new_id(), sequence=2, then="cancel"
        )
    )

    for subscription in both:
        await reaches(customer, subscription, "canceled")
