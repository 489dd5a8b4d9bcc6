"""Turn what somebody asks for into items: a plan's price and add-ons that go with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.subscriptions.domain.catalog import NotOnSale
from services.subscriptions.domain.charges import Item
from services.subscriptions.domain.price import Price, PriceInvalid, PriceNotFound, PriceNotOnSale
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.ids import new_id


@dataclass(frozen=True, kw_only=True)
class AddonChoice:
    """An add-on, by itself or by one of its prices."""

    addon_id: UUID | None = None
    price_id: UUID | None = None
    quantity: int = 1


async def choose_items(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    *,
    price_id: UUID,
    quantity: int,
    addons: Sequence[AddonChoice],
    held: Sequence[Item] = (),
) -> tuple[Item, ...]:
    """The items, the plan's own first. What is `held` already may be off sale by now."""
    known = {item.price_id: item for item in held}
    price = await _on_sale(uow, account_id, price_id, known)
    if price.plan_id is None:
        raise PriceInvalid(
            "Subscribe to a plan's price; this one is an add-on's.", field="price_id"
        )
    items = [_item(price, quantity, known)]
    for choice in addons:
        chosen = await _addon_price(uow, account_id, choice, price, known)
        items.append(_item(chosen, choice.quantity, known))
    return tuple(items)


def _item(price: Price, quantity: int, known: dict[UUID, Item]) -> Item:
    before = known.get(price.id)
    if before is not None and before.quantity == quantity:
        return before
    return Item(id=new_id(), price_id=price.id, quantity=quantity, addon_id=price.addon_id)


async def _on_sale(
    uow: SubscriptionsUnitOfWork, account_id: UUID, price_id: UUID, known: dict[UUID, Item]
) -> Price:
    price = await uow.catalog.price(price_id)
    if price.account_id not in {None, account_id}:
        raise PriceNotFound(f"There is no price {price_id}.")
    if not price.active and price.id not in known:
        raise PriceNotOnSale("This price was replaced by a newer one; it takes no new subscribers.")
    return price


async def _addon_price(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    choice: AddonChoice,
    main: Price,
    known: dict[UUID, Item],
) -> Price:
    """The add-on's price in the main price's currency and rhythm; its own for the account first."""
    if choice.price_id is not None:
        price = await _on_sale(uow, account_id, choice.price_id, known)
        if price.addon_id is None:
            raise PriceInvalid("An add-on needs an add-on's price.", field="addons")
        return price
    if choice.addon_id is None:
        raise PriceInvalid("Name the add-on or one of its prices.", field="addons")
    addon = await uow.catalog.addon(choice.addon_id)
    fitting = [
        price
        for price in await uow.catalog.prices_of(addon_id=addon.id)
        if price.currency == main.currency
        and price.interval in {None, main.interval}
        and price.account_id in {None, account_id}
        and (price.active or price.id in known)
    ]
    if not addon.active or not fitting:
        raise NotOnSale(f"The add-on {addon.code} is not sold in {main.currency} for this plan.")
    held = [price for price in fitting if price.id in known]
    own = [price for price in fitting if price.account_id is not None]
    return (held or own or fitting)[0]
