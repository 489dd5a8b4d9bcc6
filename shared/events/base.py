"""What a published event is, and the catalog of all of them."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from shared.ids import new_id

#: What the envelope carries; everything else of an event is its `data`.
ENVELOPE_FIELDS = frozenset({"id", "occurred_at", "account_id", "sequence"})

_catalog: dict[str, type["Event"]] = {}


class Event(BaseModel):
    """Something that happened to an aggregate, reported by the service that owns it.

    `sequence` is the aggregate's version after it: 1, 2, 3 … without a gap, so that a consumer
    can tell a repeat and a gap. `occurred_at` is the account's time, which a test clock may
    have moved; `id` is made in real time. A published event never loses or retypes a field.
    """

    # Built at first use: a process knows dozens of events and meets a few.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    #: `<aggregate>.<past participle>`; also the routing key.
    name: ClassVar[str]
    #: The field that holds the aggregate's id; the envelope's `subject`.
    subject_field: ClassVar[str]

    id: UUID = Field(default_factory=new_id)
    occurred_at: datetime
    account_id: UUID
    sequence: int = Field(ge=1)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            if cls.name in _catalog:
                raise TypeError(f"two events are called {cls.name}")
            _catalog[cls.name] = cls

    @property
    def subject(self) -> UUID:
        subject: UUID = getattr(self, self.subject_field)
        return subject

    @property
    def data(self) -> dict[str, Any]:
        """The payload as JSON values: everything that the envelope does not carry."""
        return self.model_dump(mode="json", exclude=set(ENVELOPE_FIELDS))


def catalog() -> dict[str, type[Event]]:
    """Every event by name; importing `shared.events` fills it."""
    return dict(_catalog)
