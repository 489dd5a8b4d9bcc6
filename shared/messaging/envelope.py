"""Events on the wire: CloudEvents 1.0, JSON, structured mode."""

import zlib
from typing import Any
from uuid import UUID

import orjson

from shared.context import Cause
from shared.events import Event, catalog

CONTENT_TYPE = "application/cloudevents+json"
EVENTS_EXCHANGE = "billing.events"

#: Aggregates are spread over this many partitions of the outbox, each relayed in order.
PARTS = 16


class UnknownEvent(Exception):  # noqa: N818
    """A message whose type is in no catalog here: a newer publisher's, perhaps."""


class Malformed(Exception):  # noqa: N818
    """A message that is no CloudEvent of ours."""


def part_of(aggregate_id: UUID) -> int:
    """The partition of an aggregate; the same in every process and release."""
    return zlib.crc32(aggregate_id.bytes) % PARTS


def envelope(event: Event, cause: Cause) -> bytes:
    """The event as it is published (https://github.com/cloudevents/spec, v1.0.2)."""
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(event.id),
        "source": f"/perennial/{type(event).__module__.rsplit('.', 1)[-1]}",
        "type": event.name,
        "subject": str(event.subject),
        "time": event.occurred_at.isoformat(),
        "datacontenttype": "application/json",
        "accountid": str(event.account_id),
        "sequence": event.sequence,
        "correlationid": cause.correlation_id,
        "causationid": cause.causation_id,
        "traceparent": cause.traceparent,
        "data": event.data,
    }
    return orjson.dumps(body)


def parse(body: bytes) -> Event:
    """The event of an envelope; fields that are not known here are passed over."""
    return event_of(read(body))


def read(body: bytes) -> dict[str, Any]:
    """The envelope as a mapping. Raises `Malformed`."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed("the body is not JSON") from error
    if not isinstance(found, dict) or "type" not in found or "id" not in found:
        raise Malformed("the body is not a CloudEvent")
    return found


def event_of(found: dict[str, Any]) -> Event:
    """The event of a read envelope. Raises `UnknownEvent`, `Malformed`."""
    kind = catalog().get(found["type"])
    if kind is None:
        raise UnknownEvent(str(found["type"]))
    try:
        return kind.model_validate(
            {
                **found["data"],
                "id": found["id"],
                "occurred_at": found["time"],
                "account_id": found["accountid"],
                "sequence": found["sequence"],
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"{found['type']} does not hold what it promises") from error


def cause_of(found: dict[str, Any]) -> Cause:
    """What the message was caused by."""
    return Cause(found["correlationid"], found["traceparent"], found.get("causationid"))


def outbox_row(event: Event, cause: Cause) -> dict[str, Any]:
    """The row that the unit of work stores for `event`."""
    return {
        "id": event.id,
        "part": part_of(event.subject),
        "exchange": EVENTS_EXCHANGE,
        "routing_key": event.name,
        "aggregate_id": event.subject,
        "account_id": event.account_id,
        "sequence": event.sequence,
        "body": envelope(event, cause),
    }
