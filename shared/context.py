"""What a request or a message was caused by, carried to every event and log line it causes."""

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Cause:
    """Where the work in hand comes from.

    `correlation_id` names the whole chain (the first request), `causation_id` the event that
    is being handled, `traceparent` is W3C Trace Context (https://www.w3.org/TR/trace-context/).
    """

    correlation_id: str
    traceparent: str
    causation_id: str | None = None
    #: While an event is handled: what had caused that event itself.
    event_caused_by: str | None = None

    def kept(self) -> dict[str, str | None]:
        """As JSON, for a row that a job takes up later: its work belongs to the same chain."""
        return {
            "correlation_id": self.correlation_id,
            "traceparent": self.traceparent,
            "causation_id": self.causation_id,
        }

    @classmethod
    def of(cls, kept: Mapping[str, str | None]) -> "Cause":
        """What `kept` had put away."""
        return cls(
            correlation_id=str(kept["correlation_id"]),
            traceparent=str(kept["traceparent"]),
            causation_id=kept["causation_id"],
        )


def new_traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child_of(traceparent: str) -> str:
    """The same trace with a new parent span, as each hop makes one."""
    version, trace, _, flags = traceparent.split("-")
    return f"{version}-{trace}-{secrets.token_hex(8)}-{flags}"


_current: ContextVar[Cause | None] = ContextVar("cause", default=None)


def current_cause() -> Cause:
    """The cause in hand; work that nobody asked for (a schedule) starts a chain of its own."""
    cause = _current.get()
    if cause is None:
        traceparent = new_traceparent()
        cause = Cause(correlation_id=traceparent.split("-")[1], traceparent=traceparent)
        _current.set(cause)
    return cause


@contextmanager
def caused_by(cause: Cause) -> Iterator[Cause]:
    """Run the block with `cause` in hand."""
    token = _current.set(cause)
    try:
        yield cause
    finally:
        _current.reset(token)


_came_in: ContextVar[float | None] = ContextVar("came_in", default=None)


def came_in() -> float:
    """When the request in hand came in, as `time.monotonic` tells it; now, where there is none."""
    at = _came_in.get()
    return time.monotonic() if at is None else at


@contextmanager
def coming_in(at: float) -> Iterator[None]:
    """Run the block as a request that came in then, however long it has waited since."""
    token = _came_in.set(at)
    try:
        yield
    finally:
        _came_in.reset(token)


@contextmanager
def a_new_chain() -> Iterator[Cause]:
    """Run the block as the start of a chain of its own."""
    traceparent = new_traceparent()
    with caused_by(Cause(traceparent.split("-")[1], traceparent)) as cause:
        yield cause


def handling(cause: Cause, event_id: str) -> Cause:
    """The cause of what a handler does: the event, within the same chain and trace."""
    return replace(
        cause,
        causation_id=event_id,
        event_caused_by=cause.causation_id,
        traceparent=child_of(cause.traceparent),
    )
