"""Reading usage for a response: the events of an account, and sums from their hours."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, select, text, tuple_

from services.subscriptions import tables
from services.subscriptions.domain.catalog import Meter, MeterNotFound
from services.subscriptions.domain.period import BillingPeriod, instant_of, wall_of, zone_of
from services.subscriptions.domain.subscription import SERVED, Subscription
from services.subscriptions.domain.usage import hour_of
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.tables import UsageRow
from shared.errors import Invalid

#: More is no answer that somebody reads.
MOST_ROWS = 5_000
#: Steps of all subscriptions together, whether or not something was used in them.
MOST_STEPS = 50_000

events = tables.usage_events.c
subscriptions = tables.subscriptions.c
billed_periods = tables.billed_periods.c

Place = tuple[UUID, UUID, int]


class UsageRangeTooWide(Invalid):
    """That is too much usage for one answer: ask for a shorter time, longer steps, or one meter."""

    code = "usage-range-too-wide"


class UsageRangeInvalid(Invalid):
    """The time that is asked for ends before it begins, or has only an end."""

    code = "usage-range-invalid"


class Step(StrEnum):
    """How the time is cut that sums are asked for."""

    HOUR = "hour"
    DAY = "day"
    PERIOD = "period"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class UsageSum:
    """What was used of a meter within a stretch of time, told in every way that a price may ask."""

    subscription_id: UUID
    meter_id: UUID
    span: BillingPeriod
    total: Decimal
    count: int
    highest: Decimal
    latest: Decimal
    members: int


async def list_usage_events(
    uow: SubscriptionsUnitOfWork,
    account_id: UUID,
    *,
    limit: int,
    after: tuple[datetime, str] | None,
    meter: str | None,
    subscription_id: UUID | None,
    since: datetime | None,
    until: datetime | None,
) -> Sequence[UsageRow]:
    """What an account used, newest first, one more than asked for; voided events too."""
    statement = select(UsageRow).where(events.account_id == account_id)
    if meter is not None:
        statement = statement.where(events.meter_id == (await _meter(uow, meter)).id)
    if subscription_id is not None:
        statement = statement.where(events.subscription_id == subscription_id)
    if since is not None:
        statement = statement.where(events.at >= since)
    if until is not None:
        statement = statement.where(events.at < until)
    if after is not None:
        statement = statement.where(tuple_(events.at, events.id) < after)
    statement = statement.order_by(events.at.desc(), events.id.desc()).limit(limit + 1)
    return (await uow.session.scalars(statement)).all()


async def meter_codes(uow: SubscriptionsUnitOfWork, ids: Iterable[UUID]) -> dict[UUID, str]:
    """What these meters are called."""
    statement = select(Meter).where(tables.meters.c.id.in_(set(ids)))
    return {meter.id: meter.code for meter in await uow.session.scalars(statement)}


async def sum_usage(
    uow: SubscriptionsUnitOfWork,
    *,
    account_id: UUID,
    time_zone: str,
    step: Step,
    meter: str | None,
    subscription_id: UUID | None,
    span: BillingPeriod | None,
) -> list[UsageSum]:
    """Sums per subscription, meter and step, oldest first; where nothing was used there is none.

    Without a `span` it is about the running period of each. Of a span, hours and days are those in
    it, by the account's clock, and periods are those that it touches.
    """
    meter_id = None if meter is None else (await _meter(uow, meter)).id
    held = await _subscriptions(uow, account_id, subscription_id, running=span is None)
    steps = await _steps(uow, held, step, span, time_zone)
    if sum(map(len, steps.values())) > MOST_STEPS:
        raise UsageRangeTooWide(
            f"That is more than {MOST_STEPS} steps: ask for a shorter time, longer steps, or one "
            "subscription.",
            field="from",
        )
    if not steps:
        return []
    found = await _add_up(uow, steps, meter_id)
    seen = await _count_members(uow, steps, meter_id)
    sums = [
        UsageSum(
            subscription_id=place[0],
            meter_id=place[1],
            span=steps[place[0]][place[2] - 1],
            members=seen.get(place, 0),
            **sums,
        )
        for place, sums in found.items()
    ]
    return sorted(sums, key=lambda one: (one.span.start, one.subscription_id, one.meter_id))


async def _meter(uow: SubscriptionsUnitOfWork, code: str) -> Meter:
    found = (await uow.usage.meters([code])).get(code)
    if found is None:
        raise MeterNotFound(f"There is no meter {code!r}.", field="meter")
    return found


async def _subscriptions(
    uow: SubscriptionsUnitOfWork, account_id: UUID, wanted: UUID | None, *, running: bool
) -> Sequence[Subscription]:
    statement = select(Subscription).where(subscriptions.account_id == account_id)
    if wanted is not None:
        statement = statement.where(subscriptions.id == wanted)
    elif running:
        statement = statement.where(subscriptions.status.in_(SERVED))
    return (await uow.session.scalars(statement.order_by(subscriptions.id))).all()


async def _steps(
    uow: SubscriptionsUnitOfWork,
    held: Sequence[Subscription],
    step: Step,
    span: BillingPeriod | None,
    time_zone: str,
) -> dict[UUID, list[BillingPeriod]]:
    """The stretches of time to sum up for each, in order and without a gap between them."""
    if span is not None and step is Step.PERIOD:
        return await _periods(uow, held, span)
    steps = {}
    for subscription in held:
        whole = span or subscription.period
        match step:
            case Step.HOUR:
                parts = list(_cut(whole, _hours(whole, time_zone)))
            case Step.DAY:
                parts = list(_cut(whole, _days(whole, time_zone)))
            case _:
                parts = [whole]
        steps[subscription.id] = parts
    return steps


def _cut(whole: BillingPeriod, bounds: Iterator[datetime]) -> Iterator[BillingPeriod]:
    start, number = whole.start, 0
    for bound in bounds:
        if start < bound < whole.end:
            yield BillingPeriod(start, bound)
            start, number = bound, number + 1
            if number > MOST_STEPS:
                return
    yield BillingPeriod(start, whole.end)


def _hours(whole: BillingPeriod, time_zone: str) -> Iterator[datetime]:
    at = hour_of(whole.start, time_zone)
    while at < whole.end:
        at += timedelta(hours=1)
        yield at


def _days(whole: BillingPeriod, time_zone: str) -> Iterator[datetime]:
    zone = zone_of(time_zone)
    day = wall_of(whole.start, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    at = whole.start
    while at < whole.end:
        day += timedelta(days=1)
        at = instant_of(day, zone)
        yield at


async def _periods(
    uow: SubscriptionsUnitOfWork, held: Sequence[Subscription], span: BillingPeriod
) -> dict[UUID, list[BillingPeriod]]:
    """Whole periods as they were billed, and what lies between them, as far as the span touches."""
    rows = await uow.session.execute(
        select(
            billed_periods.subscription_id, billed_periods.period_start, billed_periods.period_end
        ).where(
            billed_periods.subscription_id.in_([subscription.id for subscription in held]),
            billed_periods.period_start < span.end,
        )
    )
    known: dict[UUID, set[tuple[datetime, datetime]]] = defaultdict(set)
    for row in rows:
        known[row.subscription_id].add((row.period_start, row.period_end))
    steps = {}
    for subscription in held:
        known[subscription.id].add((subscription.period_start, subscription.period_end))
        parts = list(_without_gaps(sorted(known[subscription.id]), span))
        if parts:
            steps[subscription.id] = parts
    return steps


def _without_gaps(
    periods: Sequence[tuple[datetime, datetime]], span: BillingPeriod
) -> Iterator[BillingPeriod]:
    """Each period ends where the next begins, at the latest; a gap (a trial, a pause) is a part."""
    at = min(span.start, periods[0][0])
    starts = [start for start, _ in periods[1:]]
    for (start, ends), following in zip(periods, [*starts, None], strict=True):
        end = ends if following is None else min(ends, following)
        for part in ((at, start), (start, end)):
            if part[0] < part[1] and part[0] < span.end and span.start < part[1]:
                yield BillingPeriod(*part)
        at = max(at, end)
    if at < span.end:
        yield BillingPeriod(max(at, span.start), span.end)


async def _add_up(
    uow: SubscriptionsUnitOfWork,
    steps: Mapping[UUID, Sequence[BillingPeriod]],
    meter_id: UUID | None,
) -> dict[Place, dict[str, Any]]:
    rows = await uow.session.execute(ADD_UP, _arguments(steps, meter_id))
    found = {
        (row.subscription_id, row.meter_id, row.step): {
            "total": row.total,
            "count": row.events,
            "highest": row.highest,
            "latest": row.latest,
        }
        for row in rows
    }
    if len(found) > MOST_ROWS:
        raise UsageRangeTooWide(
            f"That is more than {MOST_ROWS} sums: ask for a shorter time, longer steps, or one "
            "meter.",
            field="from",
        )
    return found


async def _count_members(
    uow: SubscriptionsUnitOfWork,
    steps: Mapping[UUID, Sequence[BillingPeriod]],
    meter_id: UUID | None,
) -> dict[Place, int]:
    rows = await uow.session.execute(COUNT_MEMBERS, _arguments(steps, meter_id))
    return {(row.subscription_id, row.meter_id, row.step): row.members for row in rows}


def _arguments(
    steps: Mapping[UUID, Sequence[BillingPeriod]], meter_id: UUID | None
) -> dict[str, Any]:
    parts = [(one, part) for one, parts in steps.items() for part in parts]
    return {
        "subscriptions": [one for one, _ in parts],
        "starts": [part.start for _, part in parts],
        "ends": [part.end for _, part in parts],
        "meter": meter_id,
        "most": MOST_ROWS + 1,
    }


def _by_steps(table: str, sums: str, where: str) -> TextClause:
    """One pass over the hours of each subscription, each hour counted in the step it begins in."""
    return text(
        f"""
        WITH steps AS (
          SELECT subscription_id, array_agg(starts_at ORDER BY starts_at) AS starts,
                 max(ends_at) AS until
            FROM unnest(CAST(:subscriptions AS uuid[]), CAST(:starts AS timestamptz[]),
                        CAST(:ends AS timestamptz[])) AS s(subscription_id, starts_at, ends_at)
           GROUP BY subscription_id)
        SELECT h.subscription_id, h.meter_id, width_bucket(h.bucket_start, steps.starts) AS step,
               {sums}
          FROM steps
          JOIN subscriptions.{table} h ON h.subscription_id = steps.subscription_id
           AND h.bucket_start >= steps.starts[1] AND h.bucket_start < steps.until
         WHERE {where} AND (CAST(:meter AS uuid) IS NULL OR h.meter_id = :meter)
         GROUP BY 1, 2, 3
         LIMIT :most
        """  # noqa: S608  (built from the two calls below alone)
    )


ADD_UP = _by_steps(
    "usage_buckets",
    """sum(h.total) AS total, CAST(sum(h.count) AS bigint) AS events, max(h.highest) AS highest,
       (array_agg(h.latest ORDER BY h.latest_at DESC, h.bucket_start DESC))[1] AS latest""",
    "h.count > 0",
)
COUNT_MEMBERS = _by_steps("usage_members", "count(DISTINCT h.member) AS members", "true")
