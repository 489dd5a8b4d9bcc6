"""What a preview says is what is then billed, for every kind of act; and it writes nothing."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from services.subscriptions import tables
from services.subscriptions.domain.subscription import PaymentBehavior, Proration, Subscription
from services.subscriptions.use_cases.advance_subscriptions import advance_subscriptions
from services.subscriptions.use_cases.bill import bill
from services.subscriptions.use_cases.cancel_subscription import RequestedEnd, cancel_subscription
from services.subscriptions.use_cases.change_subscription import (
    RequestedChange,
    apply_pending_change,
    change_subscription,
)
from services.subscriptions.use_cases.choose_items import AddonChoice
from services.subscriptions.use_cases.pause_subscription import RequestedResumption
from services.subscriptions.use_cases.preview_subscription import Preview, preview_subscription
from services.subscriptions.use_cases.start_subscription import RequestedStart, start_subscription
from services.subscriptions.use_cases.who_may_ask import STAFF
from shared.clock import utc_now
from shared.errors import DomainError
from shared.events.subscriptions import Billable, SubscriptionChangePending, SubscriptionResumed
from shared.ids import new_id
from shared.schedule import Due
from tests.harness import Running
from tests.subscriptions.conftest import Client, Customer, Shop, until

TIERS = [
    {"up_to": 5, "unit_amount_decimal": "700", "flat_amount": 0},
    {"up_to": None, "unit_amount_decimal": "650.5", "flat_amount": 100},
]


HALF_A_DAY = timedelta(hours=12)
#: So many of the world's prices, the first ones, are flat.
FLAT = 3


class World:
    """Prices of every type that can be held, one metered with usage, and an add-on."""

    def __init__(self, service: Running, customer: Customer) -> None:
        self.service = service
        self.customer = customer
        self.meter = ""
        self.account_id = customer.account_id
        self.prices: list[UUID] = []
        self.addon_id = UUID(int=0)
        self.now = utc_now().replace(microsecond=0)
        self.start = self.now - timedelta(days=9)

    @property
    def metered(self) -> UUID:
        return self.prices[-1]

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

    async def pay_for_change(self, about: UUID, change_id: UUID, *, at: datetime) -> None:
        """The invoice that a change waits for is paid at once."""
        async with self.service.runtime.begin() as uow:
            subscription = await uow.subscriptions.get(about)
            await bill(uow, await apply_pending_change(uow, subscription, change_id, now=at))

    async def use(self, about: UUID, seconds: Sequence[int]) -> None:
        """Usage of the metered price, so long after the start."""
        for number, second in enumerate(seconds):
            await self.customer.post(
                "/v1/usage-events",
                id=f"{about}-{number}",
                meter=self.meter,
                value=str(number + 3),
                subscription_id=str(about),
                at=(self.start + timedelta(seconds=second)).isoformat(),
            )

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
        """All but the invoice that billed it: its news may come at any time."""
        async with self.service.runtime.begin() as uow:
            found = await uow.session.get(Subscription, about)
            columns = {column.key for column in tables.subscriptions.c} - {"latest_invoice_id"}
            return {name: getattr(found, name) for name in columns}


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


def counts(event: dict[str, Any]) -> bool:
    """Whether a preview shows it as the next bill: it owes something, or begins a period."""
    changed = "previous_price_id" in event
    return "charges" in event and bool(event["charges"] or event["take_backs"] or not changed)


def told(event: Billable) -> dict[str, Any]:
    return bill_of(event.model_dump(mode="json"))


@pytest.fixture
async def world(service: Running, customer: Customer, shop: Shop, staff: Client) -> World:
    made = World(service, customer)
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
    made.meter = meter["code"]
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


def asked(world: World, data: st.DataObject, *, at: datetime) -> RequestedChange | RequestedEnd:
    """Any change, or an end: now, at the period's end or at a date.

    What waits lies ahead in real time as well, where the service's own schedule is at work.
    """
    on = data.draw(st.none() | st.integers(86400, 40 * 86400), label="on a date")
    date = None if on is None else world.now + timedelta(seconds=on)
    behaviors = list(PaymentBehavior) if world.now - at < HALF_A_DAY else [PaymentBehavior.AT_ONCE]
    if data.draw(st.integers(0, 3), label="an end?") == 0:
        return RequestedEnd(
            asker=STAFF,
            at_period_end=data.draw(st.booleans(), label="at_period_end"),
            cancel_at=date,
            credit=data.draw(st.booleans(), label="credit"),
            refund=data.draw(st.booleans(), label="refund"),
        )
    addons = [AddonChoice(addon_id=world.addon_id, quantity=2)]
    return RequestedChange(
        asker=STAFF,
        price_id=data.draw(st.none() | st.sampled_from(world.prices), label="price"),
        quantity=data.draw(st.none() | st.integers(1, 12), label="quantity"),
        addons=data.draw(st.sampled_from([None, [], addons]), label="addons"),
        proration=data.draw(st.none() | st.sampled_from(Proration), label="proration"),
        effective_at=date,
        payment=data.draw(st.sampled_from(behaviors), label="payment"),
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
    seconds = st.integers(0, 9 * 86400) | st.integers(9 * 86400 - 40000, 9 * 86400)
    at = world.start + timedelta(seconds=data.draw(seconds, label="at"))
    if price == world.metered:
        await world.use(about, data.draw(st.lists(st.integers(0, 9 * 86400), max_size=4)))
    for _ in range(data.draw(st.integers(0, 1), label="acts before")):
        with suppress(DomainError):
            await world.act(about, asked(world, data, at=at), at=at)
    wanted = asked(world, data, at=at)
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
    if isinstance(preview.now, SubscriptionChangePending):
        change_id = UUID(happened[-1]["change_id"])
        await world.pay_for_change(about, change_id, at=at)
    reported = len(await world.billed(about))
    if isinstance(preview.now, Billable):
        assert told(preview.now) == bill_of(happened[-1])
    if preview.next is None or preview.next_at is None:
        return
    await world.let_time_pass(about, preview.next_at)
    bills = (await world.billed(about))[reported:]
    assert told(preview.next) == bill_of(next(one for one in bills if counts(one)))


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
    world = World(service, customer)
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
