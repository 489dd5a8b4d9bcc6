"""Time zones by their IANA names."""

from functools import cache
from zoneinfo import available_timezones


@cache
def time_zones() -> frozenset[str]:
    """The names of all of them. Reads a directory tree: once is enough."""
    return frozenset(available_timezones())
