"""The only reader of the machine's clock."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now, in UTC, whole microseconds as Postgres keeps them."""
    return datetime.now(UTC)
