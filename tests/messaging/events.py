"""Events of no service, for tests of the message path itself."""

from typing import Any, ClassVar
from uuid import UUID

from shared.clock import utc_now
from shared.events import Event
from shared.ids import new_id

ACCOUNT = UUID(int=7)


class ThingEvent(Event):
    subject_field: ClassVar[str] = "thing_id"

    thing_id: UUID
    number: int = 0


class ThingMade(ThingEvent):
    name: ClassVar[str] = "thing.made"


class ThingChanged(ThingEvent):
    name: ClassVar[str] = "thing.changed"


class ThingNoticed(ThingEvent):
    """Only what a handler emits."""

    name: ClassVar[str] = "notice.taken"


def a_change(thing_id: UUID | None = None, sequence: int = 1, **more: Any) -> ThingChanged:
    return ThingChanged(
        **{
            "occurred_at": utc_now(),
            "account_id": ACCOUNT,
            "thing_id": thing_id or new_id(),
            "sequence": sequence,
            **more,
        }
    )


def a_making(thing_id: UUID, **more: Any) -> ThingMade:
    return ThingMade(
        **{
            "occurred_at": utc_now(),
            "account_id": ACCOUNT,
            "thing_id": thing_id,
            "sequence": 1,
            **more,
        }
    )


def a_notice(cause: ThingEvent) -> ThingNoticed:
    """What a handler reports of the event that it took."""
    return ThingNoticed(
        occurred_at=cause.occurred_at,
        account_id=cause.account_id,
        thing_id=new_id(),
        sequence=1,
        number=cause.number,
    )
