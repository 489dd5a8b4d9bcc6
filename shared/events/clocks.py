"""What every service reports of an account whose time is simulated."""

from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from shared.events.base import Event


class TestClockReported(Event):
    """A service has done what was due at `revision`.

    `emitted` counts this service's events of the account by name, `handled` those that each of
    its handlers took; the driver compares the two to know that nothing is on its way.
    `next_due` is the earliest instant at which the service will act again.
    """

    __test__ = False

    name: ClassVar[str] = "test_clock.reported"
    subject_field: ClassVar[str] = "report_id"

    report_id: UUID
    clock_id: UUID
    service: Literal["auth", "subscriptions", "invoicing", "payments"]
    revision: int
    busy: bool
    emitted: dict[str, int]
    handled: dict[str, int]
    bindings: dict[str, tuple[str, ...]]
    next_due: datetime | None = None
