"""What every client asked, when, and what it was told: the only witness beside the databases."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request under one key, from the first try to the answer that counted."""

    customer: str
    what: str
    key: str
    began: float
    ended: float
    tries: int
    #: None where no answer came in time: it may have happened or not.
    status: int | None
    code: str = ""
    #: The id of what was made, where something was.
    made: str = ""


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """What a preview said of what was done right after it, or happened next."""

    what: str
    subscription: str
    #: The subscription's events that did it: those after the first, up to the second.
    before: int
    after: int
    #: By the clock on the wall, which databases have too.
    asked_at: float
    invoice: Any
    credit_notes: Any


class History:
    """Written by all customers, line by line, so that a killed run leaves it behind."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._zero = time.monotonic()
        self.calls: list[Call] = []
        #: What no client should ever meet.
        self.surprises: list[str] = []
        self.foretold: list[Foretold] = []
        #: What clients chose the ids of, by what they did.
        self._chosen: defaultdict[str, set[str]] = defaultdict(set)
        #: Who waited in vain.
        self.unanswered: list[str] = []

    def now(self) -> float:
        return round(time.monotonic() - self._zero, 3)

    def add(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)
            self._write(call)

    def foretell(self, foretold: Foretold) -> None:
        """Remember what a preview said, to compare it with what came."""
        with self._lock:
            self.foretold.append(foretold)
            self._write(foretold)

    def _write(self, what: Call | Foretold) -> None:
        with self._path.open("a") as lines:
            lines.write(json.dumps(asdict(what)) + "\n")

    def surprise(self, text: str) -> None:
        with self._lock:
            self.surprises.append(text)

    def give_up(self, text: str) -> None:
        with self._lock:
            self.unanswered.append(text)

    def counts(self) -> dict[str, int]:
        """How many of each kind of request were answered with success."""
        good = (call.what for call in self.calls if call.status is not None and call.status < 300)
        return dict(sorted(Counter(good).items()))

    def refused(self) -> dict[str, int]:
        """How many were refused, by what was asked and why."""
        bad = (
            f"{call.what}: {call.code or call.status}"
            for call in self.calls
            if call.status is not None and call.status >= 300
        )
        return dict(sorted(Counter(bad).items()))

    def made(self, what: str) -> set[str]:
        """The ids that clients were given."""
        given = {call.made for call in self.calls if call.what == what and call.made}
        return given | self._chosen[what]

    def note_made(self, what: str, ids: Iterable[str]) -> None:
        """What was taken under ids that the client chose."""
        with self._lock:
            self._chosen[what].update(ids)

    def is_unsure_of(self, what: str) -> bool:
        """Whether one of these was never answered: it may have happened or not."""
        return any(call.what == what and call.status is None for call in self.calls)
