"""What travels: CloudEvents 1.0 in JSON, structured mode (https://cloudevents.io)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID
from zlib import crc32

import orjson

from shared.context import Cause, new_traceparent
from shared.events.base import ENVELOPE_FIELDS, Event, catalog

EVENTS_EXCHANGE = "billing.events"
CONTENT_TYPE = "application/cloudevents+json"

#: Into how many parts the outbox is divided among relays; fixed, since rows keep theirs.
PARTS = 16

_EXCLUDED = set(ENVELOPE_FIELDS)


class Malformed(Exception):
    """Not an envelope of ours, or one whose data is not what its type promises."""


class UnknownEvent(Exception):
    """An envelope with an event that this release does not know."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """An event as it travels, before its data is looked at."""

    id: UUID
    type: str
    subject: UUID
    account_id: UUID
    sequence: int
    time: str
    cause: Cause
    data: dict[str, Any]

    def event(self) -> Event:
        """The event itself. Raises `UnknownEvent`, or `Malformed` when a promise is broken."""
        kind = catalog_entry(self.type)
        if kind is None:
            raise UnknownEvent(self.type)
        try:
            return kind.model_validate(
                {
                    **self.data,
                    "id": self.id,
                    "occurred_at": self.time,
                    "account_id": self.account_id,
                    "sequence": self.sequence,
                }
            )
        except ValueError as error:
            raise Malformed(str(error)) from error

    @property
    def occurred_at(self) -> datetime:
        """The account's time of the event. Raises `Malformed`."""
        try:
            return datetime.fromisoformat(self.time)
        except ValueError as error:
            raise Malformed(str(error)) from error


_known: dict[str, type[Event]] = {}


def catalog_entry(name: str) -> type[Event] | None:
    """The class of the event of this name; a copy of the catalog is kept."""
    if name not in _known:
        _known.update(catalog())
    return _known.get(name)


def publisher(kind: type[Event]) -> str:
    """The service that reports this kind of event, by the module that promises it."""
    return kind.__module__.rpartition(".")[2]


def part_of(aggregate_id: UUID) -> int:
    """The part of the outbox that an aggregate's events are in, the same for ever."""
    return crc32(aggregate_id.bytes) % PARTS


def write(event: Event, cause: Cause) -> bytes:
    """The envelope of `event` as bytes."""
    source = getattr(event, "service", None) or publisher(type(event))
    head: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"perennial/{source}",
        "type": event.name,
        "subject": event.subject,
        "time": event.occurred_at,
        "datacontenttype": "application/json",
        "accountid": event.account_id,
        "sequence": event.sequence,
        "correlationid": cause.correlation_id,
        "traceparent": cause.traceparent,
    }
    if cause.causation_id is not None:
        head["causationid"] = cause.causation_id
    data = event.__pydantic_serializer__.to_json(event, exclude=_EXCLUDED)
    # `default`: ids from the database are a subclass of UUID that orjson does not take.
    return orjson.dumps(head, default=str)[:-1] + b',"data":' + data + b"}"


def read(body: bytes) -> Envelope:
    """The envelope in `body`; what it does not know, it lets pass. Raises `Malformed`."""
    try:
        raw = orjson.loads(body)
        traceparent = raw.get("traceparent") or new_traceparent()
        return Envelope(
            id=UUID(raw["id"]),
            type=str(raw["type"]),
            subject=UUID(raw["subject"]),
            account_id=UUID(raw["accountid"]),
            sequence=int(raw["sequence"]),
            time=str(raw["time"]),
            cause=Cause(
                correlation_id=str(raw.get("correlationid") or raw["id"]),
                traceparent=traceparent,
                causation_id=raw.get("causationid"),
            ),
            data={**raw["data"]},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from error


def parse(body: bytes) -> Event:
    """The event in `body`. Raises `Malformed` or `UnknownEvent`."""
    return read(body).event()


def outbox_row(event: Event, cause: Cause) -> dict[str, Any]:
    """The outbox row of `event`, to be stored with the change that it reports."""
    return {
        "id": event.id,
        "part": part_of(event.subject),
        "exchange": EVENTS_EXCHANGE,
        "routing_key": event.name,
        "aggregate_id": event.subject,
        "account_id": event.account_id,
        "sequence": event.sequence,
        "body": write(event, cause),
        "headers": None,
    }


def edited(body: bytes, event_id: UUID, data: dict[str, Any]) -> bytes:
    """The same envelope under a new id, caused by the old one, with other data."""
    raw = orjson.loads(body)
    raw["causationid"] = raw["id"]
    raw["id"] = str(event_id)
    raw["data"] = data
    return orjson.dumps(raw)
