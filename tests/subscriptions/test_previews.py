"""What a preview says is what is then billed, for every kind of act; and it writes nothing."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from services.subscriptions import tables
from services.subscriptions.domain.subscription import Proration, Subscription
from services.subscriptions.use_cases.advance_subscriptions import advance_subscriptions
from services.subscriptions.use_cases.cancel_subscription import RequestedEnd, cancel_subscription
from services.subscriptions.use_cases.change_subscription import (
    RequestedChange,
    change_subscription,
)
from services.subscriptions.use_cases.choose_items import AddonChoice
from services.subscriptions.use_cases.pause_subscription import RequestedResumption
from services.subscriptions.use_cases.preview_subscription import Preview, preview_subscription
from services.subscriptions.use_cases.start_subscription import RequestedStart, start_subscription
from services.subscriptions.use_cases.who_may_ask import STAFF
from shared.clock import utc_now
from shared.errors import DomainError
from shared.events.subscriptions import Billable, SubscriptionResumed
from shared.ids import new_id
from shared.schedule import Due
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Shop, until

TIERS = [
    {"up_to": 5, "unit_amount_decimal": "700", "flat_amount": "0"},
    {"up_to": None, "unit_amount_decimal": "650.5", "flat_amount": "100"},
]


#: So many of the world's prices, the first ones, are flat.
FLAT = 3


class World:
    """Prices of every type that can be held, one metered with usage, and an add-on."""

    def __init__(self, service: Running, account_id: UUID) -> None:
        self.service = service
        self.account_id = account_id
        self.prices: list[UUID] = []
        self.addon_id = UUID(int=0)
        self.start = utc_now().replace(microsecond=0) - timedelta(days=9)

    async def begin(self, price_id: UUID, quantity: int, coupon: str | None) -> UUID:
        """Active since nine days ago, and nothing of it waits."""
        order = RequestedStart(
            price_id=price_id, quantity=quantity, coupon=coupon, start_at=self.start
        )
        async with self.service.runtime.begin() as uow:
            made = await start_subscription(
                uow, self.account_id, order, by_staff=True, now=self.start
            )
            if made.status == "incomplete":
                terms = await uow.catalog.terms_of(made)
                for event in made.activate(terms, now=self.start):
                    uow.emit(event)
            return made.id

    async def preview(self, about: UUID, asked: Any, *, at: datetime) -> Preview:
        async with self.service.runtime.begin() as uow:
            subscription = await uow.subscriptions.get(about)
            return await preview_subscription(uow, subscription, asked, now=at)

    async def act(self, about: UUID, asked: Any, *, at: datetime) -> None:
        async with self.service.runtime.begin() as uow:
            subscription = await uow.subscriptions.get(about)
            match asked:
                case RequestedChange():
                    await change_subscription(uow, subscription, asked, now=at)
                case RequestedEnd():
                    await cancel_subscription(uow, subscription, asked, now=at)

    async def let_time_pass(self, about: UUID, to: datetime) -> None:
        """Have it do what is due; who works on it at this moment (news came) is waited for."""

        async def advanced() -> bool:
            async with self.service.runtime.begin() as uow:
                due = Due(to, uow.platform, self.account_id)
                return bool(await advance_subscriptions(uow, due, most=1, only=about))

        await until(advanced)

    async def billed(self, about: UUID) -> list[Any]:
        """What was reported of it, in order."""
        outbox = tables.metadata.tables["subscriptions.outbox"].c
        async with self.service.runtime.begin() as uow:
            bodies = await uow.session.scalars(
                select(outbox.body).where(outbox.aggregate_id == about).order_by(outbox.sequence)
            )
            return [orjson.loads(body)["data"] for body in bodies]

    async def row(self, about: UUID) -> dict[str, Any]:
        async with self.service.runtime.begin() as uow:
            found = await uow.session.get(Subscription, about)
            return {column.key: getattr(found, column.key) for column in tables.subscriptions.c}


def bill_of(event: dict[str, Any]) -> dict[str, Any]:
    """What an event bills, without what is drawn anew each time."""
    drawn = {"id", "charge_id"}
    numbers = {charge["id"]: number for number, charge in enumerate(event["charges"])}

    def plain(part: dict[str, Any]) -> dict[str, Any]:
        return {name: said for name, said in part.items() if name not in drawn}

    return {
        "charges": [plain(charge) for charge in event["charges"]],
        "take_backs": [plain(taken) for taken in event["take_backs"]],
        "discounts": [
            {**discount, "charge_ids": [numbers[one] for one in discount["charge_ids"] or ()]}
            for discount in event["discounts"]
        ],
        **{name: event[name] for name in ("period_start", "period_end", "price_id", "currency")},
    }


def told(event: Billable) -> dict[str, Any]:
    return bill_of(event.model_dump(mode="json"))


@pytest.fixture
async def world(service: Running, customer: Customer, shop: Shop, staff: Client) -> World:
    made = World(service, customer.account_id)
    meter = await staff.post("/v1/meters", code=f"m-{new_id()}", name="Calls")
    for kind in (
        {"unit_amount": 1000},
        {"unit_amount": 4900},
        {"unit_amount": 9900, "interval": "year"},
        {"type": "per_unit", "unit_amount_decimal": "333.3"},
        {"type": "graduated", "tiers": TIERS},
        {"type": "volume", "tiers": TIERS},
        {"type": "package", "unit_amount": 500, "package_size": 3},
        {"type": "metered", "unit_amount": 7, "meter_id": meter["id"], "aggregation": "sum"},
    ):
        made.prices.append(UUID((await shop.price(**kind))["id"]))
    addon = await staff.post("/v1/addons", code=f"a-{new_id()}", name="Backups")
    for interval, amount in (("month", 250), ("year", 2500)):
        await staff.post(
            "/v1/prices",
            addon_id=addon["id"],
            currency="EUR",
            type="flat",
            interval=interval,
            unit_amount=amount,
        )
    made.addon_id = UUID(addon["id"])
    return made


def asked(world: World, data: st.DataObject) -> RequestedChange | RequestedEnd:
    """Any change, or an end."""
    if data.draw(st.integers(0, 3), label="an end?") == 0:
        return RequestedEnd(
            asker=STAFF,
            at_period_end=data.draw(st.booleans(), label="at_period_end"),
            credit=data.draw(st.booleans(), label="credit"),
        )
    addons = [AddonChoice(addon_id=world.addon_id, quantity=2)]
    return RequestedChange(
        asker=STAFF,
        price_id=data.draw(st.none() | st.sampled_from(world.prices), label="price"),
        quantity=data.draw(st.none() | st.integers(1, 12), label="quantity"),
        addons=data.draw(st.sampled_from([None, [], addons]), label="addons"),
        proration=data.draw(st.none() | st.sampled_from(Proration), label="proration"),
    )


@settings(
    max_examples=25,
    phases=[Phase.explicit, Phase.generate],  # each example writes to a database: no shrinking
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
async def test_every_act_costs_what_its_preview_said_and_so_does_the_invoice_after_it(
    world: World, staff: Client, data: st.DataObject
) -> None:
    coupon = None
    if data.draw(st.booleans(), label="coupon"):
        coupon = f"c-{new_id()}"
        await staff.post(
            "/v1/coupons",
            code=coupon,
            name="Off",
            percent="15",
            duration="repeating",
            periods=2,
            max_per_account=9,
        )
    price = data.draw(st.sampled_from(world.prices), label="held")
    flat = world.prices.index(price) < FLAT
    quantity = 1 if flat else data.draw(st.integers(1, 9), label="quantity held")
    about = await world.begin(price, quantity, coupon)
    at = world.start + timedelta(seconds=data.draw(st.integers(0, 9 * 86400), label="at"))
    wanted = asked(world, data)
    before, reported = await world.row(about), len(await world.billed(about))

    try:
        preview = await world.preview(about, wanted, at=at)
    except DomainError as refusal:
        with pytest.raises(type(refusal)):
            await world.act(about, wanted, at=at)
        return
    assert await world.row(about) == before, "a preview changed something"
    assert len(await world.billed(about)) == reported, "a preview told something"
    if isinstance(wanted, RequestedChange) and wanted.is_empty:
        return
    await world.act(about, wanted, at=at)

    happened = (await world.billed(about))[reported:]
    reported += len(happened)
    if isinstance(preview.now, Billable):
        assert told(preview.now) == bill_of(happened[-1])
    if preview.next is None or preview.next_at is None:
        return
    await world.let_time_pass(about, preview.next_at)
    bill = next(one for one in (await world.billed(about))[reported:] if "charges" in one)
    assert told(preview.next) == bill_of(bill)


async def test_a_trials_first_invoice_is_shown_and_none_where_nobody_could_pay(
    customer: Customer, shop: Shop
) -> None:
    for behavior, amount in (("invoice", 1000), ("cancel", None)):
        plan = await shop.plan(trial_days=14, trial_end_behavior=behavior)
        price = await shop.price(plan)
        trial = await customer.post("/v1/subscriptions", price_id=price["id"])
        assert trial["status"] == "trialing"

        upcoming = (await customer.post(f"/v1/subscriptions/{trial['id']}/preview"))["next_invoice"]

        assert (upcoming and upcoming["subtotal"]) == amount
        assert upcoming is None or upcoming["at"] == trial["trial_end"]


async def test_an_end_and_a_waking_are_previewed_one_at_a_time(
    customer: Customer, shop: Shop, service: Running, staff: Client
) -> None:
    world = World(service, customer.account_id)
    price = UUID((await shop.price(unit_amount=3000))["id"])
    about = await world.begin(price, 1, None)
    path = f"/v1/subscriptions/{about}"

    end = await staff.post(f"{path}/preview", cancel={"at_period_end": False, "credit": True})
    assert end["event"] == "subscription.canceled"
    assert end["subtotal"] == 0
    (taken,) = end["take_backs"]
    assert taken["starts_at"] < taken["period_end"]
    assert end["next_invoice"] is None
    assert await customer.refused(f"{path}/preview", cancel={}, quantity=3) == (422, "invalid")
    assert await customer.refused(f"{path}/preview", resume=True) == (
        409,
        "illegal-subscription-transition",
    )
    assert (await customer.get(path))["status"] == "active"
    await customer.post(f"{path}/pause")
    back = await customer.post(f"{path}/preview", resume=True)
    assert (back["event"], back["next_invoice"]["subtotal"]) == (
        "subscription.pause_withdrawn",
        3000,
    )
    period_end = datetime.fromisoformat((await customer.get(path))["current_period_end"])
    await world.let_time_pass(about, period_end)

    waking = await world.preview(about, RequestedResumption(STAFF), at=period_end)

    assert isinstance(waking.now, SubscriptionResumed)
    assert [charge.amount for charge in waking.now.charges] == [3000]
