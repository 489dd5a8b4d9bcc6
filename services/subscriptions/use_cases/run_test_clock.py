"""Drive an account's simulated time, one settled instant after the other."""

from datetime import datetime
from uuid import UUID

from services.subscriptions.domain.testclock import ClockExists, ClockInvalid, SimulatedClock
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.clock import utc_now
from shared.errors import Forbidden
from shared.events.clocks import TestClockReported
from shared.events.subscriptions import TestClockAdvanced
from shared.ids import new_id
from shared.testclock import record_clock


class TestClocksOff(Forbidden):
    code = "test-clocks-off"


async def create_clock(
    uow: SubscriptionsUnitOfWork, account_id: UUID, *, now: datetime
) -> SimulatedClock:
    """Freeze an account at `now`. Only an account without subscriptions may be moved in time."""
    require_test_clocks(uow)
    await uow.accounts.get(account_id)
    if await uow.clocks.exists_for(account_id):
        raise ClockExists("This account has a test clock already.")
    if await uow.subscriptions.list_open_of(account_id):
        raise ClockInvalid(
            "This account has subscriptions in real time. Use a new account.", field="account_id"
        )
    clock = SimulatedClock(
        id=new_id(), account_id=account_id, now=now, target=now, created_at=utc_now()
    )
    uow.clocks.add(clock)
    await _set_out(uow, clock.begin())
    return clock


async def advance_clock(
    uow: SubscriptionsUnitOfWork, clock_id: UUID, *, to: datetime
) -> SimulatedClock:
    """Set out for `to`."""
    require_test_clocks(uow)
    clock = await uow.clocks.get(clock_id)
    await _set_out(uow, clock.advance(to))
    return clock


async def delete_clock(uow: SubscriptionsUnitOfWork, clock_id: UUID) -> None:
    """Put the account back into real time."""
    require_test_clocks(uow)
    clock = await uow.clocks.get(clock_id)
    uow.emit(clock.delete(at=clock.now))
    await uow.clocks.delete(clock)


async def hear_report(uow: SubscriptionsUnitOfWork, report: TestClockReported) -> None:
    """A service has done its part of a round; the last of the four starts the next."""
    clock = await uow.clocks.find(report.clock_id)
    if clock is None or report.revision != clock.revision:
        return
    await uow.clocks.store_report(report)
    following = clock.hear(await uow.clocks.reports(clock), real_now=utc_now())
    if following is not None:
        uow.emit(following)
    if clock.looks_again:
        uow.wake("look_at_test_clocks_again")


async def look_again(uow: SubscriptionsUnitOfWork) -> int:
    """Ask the services again about clocks whose events were still on their way."""
    clocks = await uow.clocks.waiting()
    for clock in clocks:
        uow.emit(clock.look_again())
    return len(clocks)


async def _set_out(uow: SubscriptionsUnitOfWork, round_: TestClockAdvanced) -> None:
    """Tell everybody; here nothing that somebody asks for may come in between."""
    uow.emit(round_)
    await record_clock(uow, round_)


def require_test_clocks(uow: SubscriptionsUnitOfWork) -> None:
    if not uow.platform.test_clocks:
        raise TestClocksOff("Test clocks are off in this deployment (PERENNIAL_TEST_CLOCKS).")
