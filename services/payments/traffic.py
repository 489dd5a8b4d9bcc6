"""How hard a provider is asked: a rate limit and a circuit breaker for each, in this process."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from prometheus_client import Counter, Gauge

CALLS = Counter("provider_calls_total", "Charges sent to a provider.", ["provider", "outcome"])
OPEN = Gauge("provider_circuit_open", "1 while a provider is left alone.", ["provider"])

#: So many lost answers in a row mean that the provider is down.
TRIPS_AFTER = 20
RESTS_SECONDS = 10.0
#: The part of the rate that only those may use for whom a customer waits, and the reconciler.
RESERVED = 0.25
#: What adding up parts of seconds may lose.
DUST = 1e-6


class Admission(Enum):
    """Whether a call may go out now."""

    GO = auto()
    THROTTLED = auto()  # the rate is used up; soon
    RESTING = auto()  # the provider is left alone


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
        self._tokens = self._most
        self._filled = self.clock()

    def admit(self, *, urgent: bool) -> Admission:
        """Whether a charge may go out now; if so, it counts.

        After a rest one charge is let through at a time, to see whether the provider is back.
        """
        if self.is_resting:
            return Admission.RESTING
        if not self._take(urgent=urgent):
            return Admission.THROTTLED
        if self._has_tripped:
            self._open_until = self.clock() + RESTS_SECONDS
        return Admission.GO

    async def turn(self) -> None:
        """Wait until a question about what was sent may go out; it counts as well."""
        while not self._take(urgent=True):  # noqa: ASYNC110  (time fills it, nobody else)
            await asyncio.sleep(1.0 / self.rate)

    def room(self, *, urgent: bool) -> int:
        """How many charges may go out now."""
        if self.is_resting:
            return 0
        self._fill()
        left = int(self._tokens - self._floor(urgent=urgent) + DUST)
        return max(0, min(left, 1) if self._has_tripped else left)

    @property
    def is_resting(self) -> bool:
        return self._has_tripped and self.clock() < self._open_until

    def note(self, *, lost: bool, outcome: str) -> None:
        """What became of a charge."""
        CALLS.labels(self.provider, outcome).inc()
        self._lost = self._lost + 1 if lost else 0
        if self._lost == TRIPS_AFTER:
            self._open_until = self.clock() + RESTS_SECONDS
        OPEN.labels(self.provider).set(float(self._has_tripped))

    def hear(self) -> None:
        """A charge whose answer was lost turns out to be taken or declined.

        Its provider is slow, or the network loses what it says; it is not down.
        """
        self._lost = 0
        OPEN.labels(self.provider).set(0.0)

    @property
    def _has_tripped(self) -> bool:
        return self._lost >= TRIPS_AFTER

    @property
    def _most(self) -> float:
        """What may go out at once after a pause: a second's worth, and at least one."""
        return max(1.0, self.rate)

    def _floor(self, *, urgent: bool) -> float:
        return 0.0 if urgent else min(self.rate * RESERVED, self._most - 1.0)

    def _fill(self) -> None:
        now = self.clock()
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self.rate)
        self._filled = now

    def _take(self, *, urgent: bool) -> bool:
        self._fill()
        if self._tokens - 1.0 < self._floor(urgent=urgent) - DUST:
            return False
        self._tokens -= 1.0
        return True


@dataclass
class Traffic:
    """The lanes of all providers, made as they are first asked for."""

    clock: Callable[[], float] = time.monotonic
    _lanes: dict[str, Lane] = field(default_factory=dict)

    def lane(self, provider: str, *, rate: float) -> Lane:
        if provider not in self._lanes:
            self._lanes[provider] = Lane(provider, rate, self.clock)
        return self._lanes[provider]

    def room(self, *, urgent: bool) -> int | None:
        """How many charges may go out now, over all providers; None where none is known yet."""
        if not self._lanes:
            return None
        return sum(lane.room(urgent=urgent) for lane in self._lanes.values())

    @property
    def is_resting(self) -> bool:
        """Whether every provider is left alone."""
        return bool(self._lanes) and all(lane.is_resting for lane in self._lanes.values())

    def closed(self, *, urgent: bool) -> list[str]:
        """The providers to which nothing may go now, where others are open."""
        shut = [name for name, lane in self._lanes.items() if not lane.room(urgent=urgent)]
        return shut if len(shut) < len(self._lanes) else []
