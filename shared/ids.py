"""Identifiers: UUIDv7, so that keys sort by the time they were made (RFC 9562)."""

from uuid import UUID

from uuid_utils.compat import uuid7


def new_id() -> UUID:
    """A new identifier; later calls in one process sort after earlier ones."""
    return uuid7()
