"""What waits to happen to a subscription: one ordered list, whatever its state is meanwhile."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from services.subscriptions.domain.charges import Item
from shared.ids import new_id


class EntryKind(StrEnum):
    """What an entry of the agenda does; in this order where instants are equal."""

    CANCEL = "cancel"
    CHANGE = "change"
    PRICE_MOVE = "price_move"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Addition:
    """A price to hold beside the main one: an add-on's, or a component of the plan."""

    price_id: UUID
    quantity: int = 1
    addon_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What should be different; None leaves it as it is then. A new price brings its plan."""

    price_id: UUID | None = None
    plan_id: UUID | None = None
    components: tuple[Addition, ...] = ()
    quantity: int | None = None
    addons: tuple[Addition, ...] | None = None

    @property
    def is_empty(self) -> bool:
        return self.price_id is None and self.quantity is None and self.addons is None

    @property
    def price_ids(self) -> set[UUID]:
        others = (*self.components, *(self.addons or ()))
        return {one.price_id for one in others} | ({self.price_id} if self.price_id else set())

    def then(self, later: "Change") -> "Change":
        """Both, one after the other: where they speak of the same thing, the later one counts."""
        first = self
        if later.price_id is not None:
            first = replace(
                first,
                price_id=later.price_id,
                plan_id=later.plan_id,
                components=later.components,
            )
        if later.quantity is not None:
            first = replace(first, quantity=later.quantity)
        if later.addons is not None:
            first = replace(first, addons=later.addons)
        return first

    def without(self, other: "Change") -> "Change":
        """What is left of it where `other` speaks of the same thing."""
        left = self
        if other.price_id is not None:
            left = replace(left, price_id=None, plan_id=None, components=())
        if other.quantity is not None:
            left = replace(left, quantity=None)
        if other.addons is not None:
            left = replace(left, addons=None)
        return left

    def apply(self, held: tuple[Item, ...]) -> tuple[Item, ...]:
        """What is held after it, the plan's own price first. What stays keeps its identity."""
        first = held[0] if held else None
        own = [item for item in held if item.addon_id is None]
        quantity = self.quantity or (first.quantity if first else 1)
        price_id = self.price_id or (first.price_id if first else None)
        if price_id is None:
            raise ValueError("a subscription that holds nothing needs a price")
        wanted = [Addition(price_id, quantity)]
        if self.price_id is not None:
            wanted += self.components
        else:
            wanted += [Addition(item.price_id, item.quantity) for item in own[1:]]
        if self.addons is not None:
            wanted += self.addons
        else:
            wanted += [
                Addition(item.price_id, item.quantity, item.addon_id)
                for item in held
                if item.addon_id is not None
            ]
        known = {item.price_id: item for item in held}
        return tuple(_item(one, known) for one in wanted)


def _item(wanted: Addition, known: Mapping[UUID, Item]) -> Item:
    before = known.get(wanted.price_id)
    if before is None:
        return Item(new_id(), wanted.price_id, wanted.quantity, wanted.addon_id, units_billed=0)
    if before.quantity == wanted.quantity:
        return before
    billed = before.quantity if before.units_billed is None else before.units_billed
    # A unit that was billed once is not billed again; one that is taken later is another one.
    return replace(
        before, id=new_id(), quantity=wanted.quantity, units_billed=min(billed, wanted.quantity)
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that waits: for an instant, or (`at` None) for the running period's end."""

    kind: EntryKind
    since: datetime
    by: str
    at: datetime | None = None
    change: Change = Change()
    #: A price move: whoever holds this price then; None once nobody does, until that is reported.
    from_price_id: UUID | None = None
    #: How a change at a date within a period is billed.
    proration: str | None = None
    #: A cancellation: what is left of what was paid ahead comes back, as credit or as money.
    credit: bool = False
    refund: bool = False
    reason: str | None = None

    def is_due(self, instant: datetime) -> bool:
        """Whether it is to happen when a period opens at this instant."""
        return self.at is None or self.at <= instant

    def is_moot(self, items: tuple[Item, ...]) -> bool:
        """Whether it moves away from a price that is not held."""
        return self.kind is EntryKind.PRICE_MOVE and items[0].price_id != self.from_price_id

    def apply(self, items: tuple[Item, ...], plan_id: UUID) -> tuple[tuple[Item, ...], UUID]:
        """What is held once it has happened, and by which plan."""
        if self.is_moot(items):
            return items, plan_id
        return self.change.apply(items), self.change.plan_id or plan_id

    @property
    def changes_what_is_held(self) -> bool:
        return self.kind in {EntryKind.CHANGE, EntryKind.PRICE_MOVE}


#: In the order in which they happen.
Agenda = tuple[Entry, ...]
ORDER = list(EntryKind)
LAST = datetime.max.replace(tzinfo=UTC)


def in_order(entries: Iterable[Entry]) -> Agenda:
    """By instant, and those of the period's end last; of one instant by what they do."""
    return tuple(
        sorted(
            entries,
            key=lambda entry: (entry.at or LAST, ORDER.index(entry.kind)),
        )
    )


def held_then(
    items: tuple[Item, ...], plan_id: UUID, agenda: Iterable[Entry], *, at: datetime
) -> tuple[tuple[Item, ...], UUID]:
    """What is held after everything of the agenda that is due when a period opens at `at`."""
    for entry in agenda:
        if entry.changes_what_is_held and entry.is_due(at):
            items, plan_id = entry.apply(items, plan_id)
    return items, plan_id


def moot_moves(items: tuple[Item, ...], plan_id: UUID, due: Iterable[Entry]) -> list[Entry]:
    """Price moves among these, which happen one after the other, that move nothing."""
    moot = []
    for entry in due:
        if entry.is_moot(items):
            moot.append(replace(entry, from_price_id=None))
        items, plan_id = entry.apply(items, plan_id)
    return moot
