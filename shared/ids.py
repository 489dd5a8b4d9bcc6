"""Identifiers: UUIDv7, so that keys sort by the time they were made (RFC 9562)."""

from datetime import datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

UUID_VERSION = 7


def new_id() -> UUID:
    """A new identifier; later calls in one process sort after earlier ones."""
    return uuid7()


#: So long news of something new may take from one service to another, at the very worst.
ON_ITS_WAY = timedelta(hours=1)


def is_new(identifier: UUID, *, at: datetime) -> bool:
    """Whether it may be the id of something so new that another service has not heard of it yet.

    Ids tell when they were made; what is no id of ours, or an old one, is never new.
    """
    if identifier.version != UUID_VERSION:
        return False
    # In numbers: what somebody makes up may lie beyond the calendar.
    made = (identifier.int >> 80) / 1000
    return abs(at.timestamp() - made) < ON_ITS_WAY.total_seconds()
