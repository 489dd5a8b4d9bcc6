"""Strikes: which faults, when and how is drawn from a seed."""

# ruff: noqa: S311 -- chance here has to be repeatable, not secret

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.faults import FAULTS
from tests.chaos.topology import Topology

#: Seconds from one fault to the next, drawn evenly from this.
GAP = (0.2, 2.0)
#: So long, at most, it waits for customers that are behind, to strike them all evenly.
LONGEST_WAIT = 20.0
#: So far the faults may be ahead of the customers, as a share of all.
AHEAD = 0.1


@dataclass
class Nemesis:
    """Strikes so many times, at instants and places that the seed decides."""

    topology: Topology
    seed: int
    faults: int
    only: tuple[str, ...] = ()
    told: Callable[[str], None] = print
    #: Which share of the customers' lives is over.
    progress: Callable[[], float] = lambda: 1.0
    struck: Counter[str] = field(default_factory=Counter)
    #: What cannot be had here, and why.
    skipped: dict[str, str] = field(default_factory=dict)

    def rage(self) -> None:
        """All of it. A fault whose target is down anyway does not count and is drawn anew."""
        rng = random.Random(f"nemesis {self.seed}")
        wanted = [one for name, one in FAULTS.items() if not self.only or name in self.only]
        self.skipped = {one.name: why for one in wanted if (why := one.lacks(self.topology))}
        faults = [one for one in wanted if one.name not in self.skipped]
        if unknown := set(self.only) - FAULTS.keys():
            raise SystemExit(f"There is no fault called {', '.join(sorted(unknown))}.")
        if not faults:
            raise SystemExit(f"None of these faults can be had here: {self.skipped}")
        while (done := sum(self.struck.values())) < self.faults:
            self._rest(rng.uniform(*GAP))
            waited = time.monotonic()
            while (
                done / self.faults > self.progress() + AHEAD
                and time.monotonic() - waited < LONGEST_WAIT
            ):
                self._rest(0.2)
            chosen = rng.choices(faults, [one.weight for one in faults])[0]
            # A fault draws from a source of its own: what it needs does not shift the others.
            if chosen.strike(self.topology, random.Random(rng.random())):
                self.struck[chosen.name] += 1
                self.told(f"{done + 1:>4}  {chosen.name}  (customers {self.progress():.0%})")

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.topology.tend()
            time.sleep(0.05)
