"""Everything that can go wrong; importing this fills `FAULTS`."""

from tests.chaos.faults import (
    broker,
    cache,
    database,
    network,
    processes,
    provider,
    releases,
)
from tests.chaos.faults.base import FAULTS

__all__ = ["FAULTS", "broker", "cache", "database", "network", "processes", "provider", "releases"]
