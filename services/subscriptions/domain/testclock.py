"""Test clocks: simulated time of one account, moved only when all services have come to rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from shared.errors import Conflict, Invalid, NotFound, TestClockBusy
from shared.events.clocks import TestClockReported
from shared.events.subscriptions import TestClockAdvanced, TestClockDeleted

SERVICES = frozenset({"auth", "subscriptions", "invoicing", "payments"})
#: Rounds that show the same counts although some handler has not seen all events: a dead
#: letter, or a handler that is younger than the account. Then time goes on regardless.
PATIENCE = timedelta(seconds=10)
LONGEST_ADVANCE = timedelta(days=366 * 5)


class ClockStatus(StrEnum):
    READY = "ready"
    ADVANCING = "advancing"


class ClockNotFound(NotFound):
    code = "test-clock-not-found"


class ClockExists(Conflict):
    code = "test-clock-exists"


class ClockInvalid(Invalid):
    code = "test-clock-invalid"


def matches(pattern: str, name: str) -> bool:
    """Whether a topic binding takes a routing key."""
    if pattern in {"#", name}:
        return True
    wanted, given = pattern.split("."), name.split(".")
    return len(wanted) == len(given) and all(
        want in {"*", part} for want, part in zip(wanted, given, strict=True)
    )


def behind(reports: Sequence[TestClockReported]) -> dict[str, tuple[int, int]]:
    """Handlers that have not taken every event they are bound to: (taken, published)."""
    published: dict[str, int] = {}
    for report in reports:
        for name, count in report.emitted.items():
            published[name] = published.get(name, 0) + count
    late = {}
    for report in reports:
        for handler, patterns in report.bindings.items():
            expected = sum(
                count
                for name, count in published.items()
                if any(matches(pattern, name) for pattern in patterns)
            )
            taken = report.handled.get(handler, 0)
            if taken < expected:  # more: an event that was sent again to one handler
                late[handler] = (taken, expected)
    return late


def counts(reports: Sequence[TestClockReported]) -> dict[str, Mapping[str, int]]:
    """What the services counted, to compare one round with the next."""
    return {
        f"{report.service} {way}": numbers
        for report in sorted(reports, key=lambda report: report.service)
        for way, numbers in (("emitted", report.emitted), ("handled", report.handled))
    }


@dataclass(eq=False, kw_only=True)
class SimulatedClock:
    """`revision` counts rounds: in each, every service does what is due and reports."""

    id: UUID
    account_id: UUID
    now: datetime
    target: datetime
    status: ClockStatus = ClockStatus.ADVANCING
    revision: int = 0
    steps: int = 0
    #: Events are on their way: look again after a moment, not at once.
    looks_again: bool = False
    #: What the round before at this same instant counted.
    seen: dict[str, Mapping[str, int]] | None = None
    seen_since: datetime | None = None
    #: Handlers that were behind in the last round, for whoever waits.
    waiting_for: tuple[str, ...] = ()
    version: int = 0
    created_at: datetime

    def begin(self) -> TestClockAdvanced:
        """Freeze the account at `now`."""
        return self._round()

    def advance(self, to: datetime) -> TestClockAdvanced:
        if self.status is not ClockStatus.READY:
            raise TestClockBusy("The clock is on its way. Wait until it is ready.")
        if to <= self.now:
            raise ClockInvalid("A test clock only moves forward.", field="to")
        if to - self.now > LONGEST_ADVANCE:
            raise ClockInvalid("Advance by at most five years at once.", field="to")
        self.status, self.target, self.steps = ClockStatus.ADVANCING, to, 0
        return self._round()

    def hear(
        self, reports: Sequence[TestClockReported], *, real_now: datetime
    ) -> TestClockAdvanced | None:
        """All services have reported this round: look again, move on, or be there."""
        if self.status is ClockStatus.READY or {r.service for r in reports} != SERVICES:
            return None
        if not self._is_settled(reports, real_now):
            self.looks_again = bool(self.waiting_for)
            return None if self.looks_again else self._round()
        self.seen = self.seen_since = None
        self.waiting_for = ()
        if self.now >= self.target:
            self.status = ClockStatus.READY
            return None
        dues = [r.next_due for r in reports if r.next_due is not None and r.next_due > self.now]
        self.now = min([*dues, self.target])
        self.steps += 1
        return self._round()

    def look_again(self) -> TestClockAdvanced:
        """The next round at the same instant."""
        self.looks_again = False
        return self._round()

    def delete(self, *, at: datetime) -> TestClockDeleted:
        self.version += 1
        return TestClockDeleted(
            occurred_at=at,
            account_id=self.account_id,
            sequence=self.version,
            clock_id=self.id,
            revision=self.revision,
        )

    def _is_settled(self, reports: Sequence[TestClockReported], real_now: datetime) -> bool:
        """Two rounds with equal counts, nobody busy, every event taken by all its handlers."""
        late = behind(reports)
        self.waiting_for = tuple(
            sorted([*late, *(f"{r.service} is busy" for r in reports if r.busy)])
        )
        now_seen = counts(reports)
        if now_seen != self.seen:
            self.seen, self.seen_since = now_seen, real_now
            return False
        if any(report.busy for report in reports):
            return False
        waited = real_now - (self.seen_since or real_now)
        return not late or waited > PATIENCE

    def _round(self) -> TestClockAdvanced:
        self.revision += 1
        self.version += 1
        return TestClockAdvanced(
            occurred_at=self.now,
            account_id=self.account_id,
            sequence=self.version,
            clock_id=self.id,
            revision=self.revision,
            now=self.now,
            target=self.target,
        )
