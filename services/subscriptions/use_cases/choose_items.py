"""Turn what somebody asks for into a change of what is held: prices that go together."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from uuid import UUID

from services.subscriptions.domain.agenda import Addition, Change
from services.subscriptions.domain.catalog import NotOnSale
from services.subscriptions.domain.charges import Item
from services.subscriptions.domain.price import (
    Price,
    PriceInvalid,
    PriceNotFound,
    PriceNotOnSale,
    PriceType,
)
from services.subscriptions.domain.subscription import QuantityInvalid
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.money import require_billable


@dataclass(frozen=True, kw_only=True)
class AddonChoice:
    """An add-on, by itself or by one of its prices."""

    addon_id: UUID | None = None
    price_id: UUID | None = None
    quantity: int = 1


async def choose_change(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    *,
    price_id: UUID | None,
    quantity: int | None,
    addons: Sequence[AddonChoice] | None,
    held: Sequence[Item] = (),
) -> Change:
    """What is asked for, with the components that come with a price. None leaves as it is.

    What is `held` already may be off sale by now.
    """
    known = {item.price_id for item in held}
    main = await uow.catalog.price(price_id or held[0].price_id)
    components: tuple[Addition, ...] = ()
    if price_id is not None:
        main = await _on_sale(uow, account_id, price_id, known)
        if main.plan_id is None:
            raise PriceInvalid(
                "Subscribe to a plan's price; this one is an add-on's.", field="price_id"
            )
        if main.component:
            raise PriceInvalid(
                "This price comes with the others of its plan; subscribe to one of them.",
                field="price_id",
            )
        components = await _components(uow, account_id, main, held)
        if quantity is None and main.type is PriceType.FLAT:
            quantity = 1  # also where so many of another price were held
    chosen = None
    if addons is not None:
        chosen = await _additions(uow, account_id, addons, main, known)
    return Change(
        price_id=price_id,
        plan_id=None if price_id is None else main.plan_id,
        components=components,
        quantity=quantity,
        addons=chosen,
    )


async def check_amounts(
    uow: SubscriptionsUnitOfWork, items: Sequence[Item], held: Sequence[Item] = ()
) -> None:
    """Refuse what cannot be billed: too large a sum, or several of a flat price."""
    before = {item.key for item in held}
    whole = Fraction(0)
    for item in items:
        price = await uow.catalog.price(item.price_id)
        if price.is_metered:
            continue
        if price.type is PriceType.FLAT and item.quantity > 1 and item.key not in before:
            raise QuantityInvalid(
                "A flat price is the same for any quantity: hold one of it.", field="quantity"
            )
        whole += price.quote(item.quantity).amount
    require_billable(whole, field="quantity")


async def _components(
    uow: SubscriptionsUnitOfWork, account_id: UUID, main: Price, held: Sequence[Item]
) -> tuple[Addition, ...]:
    """What comes with the price; of a meter that is counted already, the price that is held."""
    if main.plan_id is None or main.interval is None:
        return ()
    found = await uow.catalog.components_of(
        main.plan_id, main.currency, main.interval, account_id=account_id
    )
    kept = {}
    for item in held:
        price = await uow.catalog.price(item.price_id)
        if price.component and price.plan_id == main.plan_id and price.interval == main.interval:
            kept[price.meter_id] = price
    return tuple(Addition(kept.get(price.meter_id, price).id) for price in found)


async def _additions(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    choices: Sequence[AddonChoice],
    main: Price,
    known: set[UUID],
) -> tuple[Addition, ...]:
    """The add-ons' prices; one that is named twice is held once, with both quantities."""
    found: dict[UUID, Addition] = {}
    for choice in choices:
        price = await _addon_price(uow, account_id, choice, main, known)
        before = found[price.id].quantity if price.id in found else 0
        found[price.id] = Addition(price.id, before + choice.quantity, price.addon_id)
    return tuple(found.values())


async def _on_sale(
    uow: SubscriptionsUnitOfWork, account_id: UUID, price_id: UUID, known: set[UUID]
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
    known: set[UUID],
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
