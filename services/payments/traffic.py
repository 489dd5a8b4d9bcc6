"""How hard a provider is asked: a rate limit and a circuit breaker for each, in this process."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge

CALLS = Counter("provider_calls_total", "Charges sent to a provider.", ["provider", "outcome"])
OPEN = Gauge("provider_circuit_open", "1 while a provider is left alone.", ["provider"])

#: So many lost answers in a row mean that the provider is down.
TRIPS_AFTER = 20
RESTS_SECONDS = 10.0
#: The part of the rate that only those may use for whom a customer waits.
RESERVED = 0.25


@dataclass
class Lane:
    """One provider's budget and state."""

    provider: str
    rate: float
    clock: Callable[[], float] = time.monotonic
    _tokens: float = field(init=False)
    _filled: float = field(init=False)
    _lost: int = 0
    _open_until: float = 0.0

    def __post_init__(self) -> None:
        self._tokens = self.rate
        self._filled = self.clock()

    def take(self, *, urgent: bool) -> bool:
        """Whether a call may go out now; if so, it counts."""
        now = self.clock()
        self._tokens = min(self.rate, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        floor = 0.0 if urgent else self.rate * RESERVED
        if self._tokens - 1.0 < floor:
            return False
        self._tokens -= 1.0
        return True

    @property
    def is_open(self) -> bool:
        """Whether the provider is left alone for now. One call is let through after a rest."""
        if self._lost < TRIPS_AFTER:
            return False
        now = self.clock()
        if now < self._open_until:
            return True
        self._open_until = now + RESTS_SECONDS
        return False

    def note(self, *, lost: bool, outcome: str) -> None:
        """What became of a call."""
        CALLS.labels(self.provider, outcome).inc()
        self._lost = self._lost + 1 if lost else 0
        if self._lost == TRIPS_AFTER:
            self._open_until = self.clock() + RESTS_SECONDS
        OPEN.labels(self.provider).set(float(self._lost >= TRIPS_AFTER))


class Traffic:
    """The lanes of all providers."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}

    def lane(self, provider: str, *, rate: float) -> Lane:
        if provider not in self._lanes:
            self._lanes[provider] = Lane(provider, rate)
        return self._lanes[provider]
