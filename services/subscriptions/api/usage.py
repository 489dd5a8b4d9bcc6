"""Usage: events one by one or a thousand at once, each counted once; and what they come to."""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query as Param
from fastapi import Response
from pydantic import AfterValidator, BaseModel, Field

from services.subscriptions.api.edge import USER, Command, Listing
from services.subscriptions.domain.catalog import MeterNotFound
from services.subscriptions.domain.period import BillingPeriod
from services.subscriptions.domain.price import plain
from services.subscriptions.domain.usage import (
    UsageEvent,
    UsageEventNotFound,
    UsageHasNoSubscription,
    UsageNotCounted,
    UsageTooEarly,
    UsageTooLate,
    UsageValueInvalid,
    hour_of,
)
from services.subscriptions.tables import UsageRow
from services.subscriptions.usage_queries import (
    Step,
    UsageRangeInvalid,
    UsageRangeTooWide,
    UsageSum,
    list_usage_events,
    meter_codes,
    sum_usage,
)
from services.subscriptions.use_cases.record_usage import (
    Outcome,
    Report,
    record_usage,
)
from services.subscriptions.use_cases.void_usage import void_usage
from shared.errors import BadRequest, Invalid
from shared.money import AmountTooLarge
from shared.web import Instant, Page, RequestModel, Router, problems
from shared.web.bodies import is_storable

router = Router(prefix="/v1", tags=["usage"])

MOST_AT_ONCE = 1000
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def in_utc(instant: datetime) -> datetime:
    """The same instant, told by the clock that everything is kept in."""
    return instant.astimezone(UTC)


Moment = Annotated[Instant, AfterValidator(in_utc)]
EventId = Annotated[str, Field(min_length=1, max_length=200)]
MeterCode = Annotated[str, Field(min_length=1, max_length=100)]
From = Annotated[Moment | None, Param(alias="from")]
To = Annotated[Moment | None, Param(alias="to")]


class UsageRequest(RequestModel):
    """`id` is the sender's own and makes the event count once.

    `value` may be negative to correct a sum. `member` is what unique counts tell apart.
    """

    id: EventId
    meter: MeterCode
    value: Annotated[Decimal, Field(max_digits=24, decimal_places=9)] = Decimal(1)
    member: EventId | None = None
    at: Moment | None = None
    subscription_id: UUID | None = None

    def report(self) -> Report:
        return Report(
            id=self.id,
            meter=self.meter,
            value=self.value,
            member=self.member,
            at=self.at,
            subscription_id=self.subscription_id,
        )


class BatchRequest(RequestModel):
    events: list[UsageRequest] = Field(min_length=1, max_length=MOST_AT_ONCE)


class UsageView(BaseModel):
    """The event as it was stored the first time."""

    id: str
    meter_id: UUID
    subscription_id: UUID
    value: str
    member: str | None
    at: datetime
    voided: bool
    received_at: datetime

    @classmethod
    def of(cls, row: UsageRow | UsageEvent) -> "UsageView":
        return cls(
            id=row.id,
            meter_id=row.meter_id,
            subscription_id=row.subscription_id,
            value=plain(row.value),
            member=row.member,
            at=row.at,
            voided=row.voided,
            received_at=row.received_at,
        )


class OutcomeView(BaseModel):
    """What became of one event of a batch; a refused one may be sent again."""

    id: str
    status: Literal["recorded", "duplicate", "refused"]
    code: str | None = None
    detail: str | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> "OutcomeView":
        if outcome.refusal is not None:
            return cls(
                id=outcome.id,
                status="refused",
                code=outcome.refusal.code,
                detail=outcome.refusal.detail,
            )
        return cls(id=outcome.id, status="duplicate" if outcome.duplicate else "recorded")


class BatchView(BaseModel):
    recorded: int
    duplicates: int
    refused: int
    data: list[OutcomeView]


@router.post(
    "/usage-events",
    status_code=201,
    response_model=UsageView,
    responses=problems(
        MeterNotFound,
        UsageHasNoSubscription,
        UsageNotCounted,
        UsageTooEarly,
        UsageTooLate,
        UsageValueInvalid,
        AmountTooLarge,
        BadRequest,
    ),
    dependencies=[USER],
)
async def record(body: UsageRequest, command: Command) -> Response:
    """Count one event. The same id again answers as the first time did."""
    async with command.begin() as uow:
        (outcome,) = await record_usage(uow, command.account_id, [body.report()], now=command.now)
        if outcome.refusal is not None or outcome.row is None:
            raise outcome.refusal or UsageEventNotFound("The event was not stored.")
        return await command.answer(uow, UsageView.of(outcome.row), status=201)


@router.post(
    "/usage-events/batch",
    response_model=BatchView,
    responses=problems(BadRequest),
    dependencies=[USER],
)
async def record_batch(body: BatchRequest, command: Command) -> Response:
    """Count up to 1,000 events; each is told for itself what became of it."""
    async with command.begin() as uow:
        reports = [event.report() for event in body.events]
        outcomes = await record_usage(uow, command.account_id, reports, now=command.now)
        data = [OutcomeView.of(outcome) for outcome in outcomes]
        view = BatchView(
            recorded=sum(one.status == "recorded" for one in data),
            duplicates=sum(one.status == "duplicate" for one in data),
            refused=sum(one.status == "refused" for one in data),
            data=data,
        )
        return await command.answer(uow, view)


@router.delete(
    "/usage-events/{event_id}",
    response_model=UsageView,
    responses=problems(UsageEventNotFound, UsageTooLate, AmountTooLarge, BadRequest),
    dependencies=[USER],
)
async def void(event_id: str, command: Command) -> Response:
    """Correct a mistake: the event no longer counts, and its id stays used.

    Possible for as long as usage of its instant is taken.
    """
    async with command.begin() as uow:
        row = await void_usage(uow, command.account_id, event_id, now=command.now)
        return await command.answer(uow, UsageView.of(row))


@router.get("/usage-events", responses=problems(MeterNotFound, Invalid, BadRequest))
async def list_events(
    query: Listing,
    *,
    limit: Annotated[int, Param(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Param(max_length=1000)] = None,
    meter: MeterCode | None = None,
    subscription_id: UUID | None = None,
    since: From = None,
    until: To = None,
) -> Page[UsageView]:
    """What the account used, newest first by when it was used; voided events too."""
    async with query.begin() as uow:
        rows = await list_usage_events(
            uow,
            query.account_id,
            limit=limit,
            after=_decode(cursor) if cursor else None,
            meter=meter,
            subscription_id=subscription_id,
            since=since,
            until=until,
        )
    shown = rows[:limit]
    return Page(
        data=[UsageView.of(row) for row in shown],
        next_cursor=_encode(shown[-1]) if len(rows) > limit else None,
    )


class UsageSumView(BaseModel):
    """What was used of a meter from `start` to `end`, told in every way that a price may ask.

    `unique` counts the members that events named.
    """

    meter: str
    meter_id: UUID
    subscription_id: UUID
    start: datetime
    end: datetime
    sum: str
    count: int
    max: str
    latest: str
    unique: int

    @classmethod
    def of(cls, one: UsageSum, code: str) -> "UsageSumView":
        return cls(
            meter=code,
            meter_id=one.meter_id,
            subscription_id=one.subscription_id,
            start=one.span.start,
            end=one.span.end,
            sum=plain(one.total),
            count=one.count,
            max=plain(one.highest),
            latest=plain(one.latest),
            unique=one.members,
        )


class UsageSumsView(BaseModel):
    """Oldest first; a stretch of time in which nothing was used is left out.

    `start` and `end` are null where it is about the running period of each subscription.
    """

    by: Step
    time_zone: str
    start: datetime | None
    end: datetime | None
    data: list[UsageSumView]


@router.get(
    "/usage", responses=problems(MeterNotFound, UsageRangeInvalid, UsageRangeTooWide, BadRequest)
)
async def read_usage(
    query: Listing,
    *,
    by: Step = Step.NONE,
    meter: MeterCode | None = None,
    subscription_id: UUID | None = None,
    since: From = None,
    until: To = None,
) -> UsageSumsView:
    """How much was used, per subscription and meter: in all, or by hour, day or billing period.

    Without `from` it is about the running periods. Usage is kept by the hour, so that `from` and
    `to` (now, if not given) are taken to whole hours. Days are the account's; periods are whole
    ones, all that the time touches.
    """
    async with query.begin() as uow:
        zones = await uow.accounts.zones([query.account_id])
        zone = zones.get(query.account_id, "UTC")
        span = _span(since, until, query.now, zone)
        sums = await sum_usage(
            uow,
            account_id=query.account_id,
            time_zone=zone,
            step=by,
            meter=meter,
            subscription_id=subscription_id,
            span=span,
        )
        codes = await meter_codes(uow, [one.meter_id for one in sums])
    return UsageSumsView(
        by=by,
        time_zone=zone,
        start=span.start if span else None,
        end=span.end if span else None,
        data=[UsageSumView.of(one, codes[one.meter_id]) for one in sums],
    )


def _span(
    since: datetime | None, until: datetime | None, now: datetime, time_zone: str
) -> BillingPeriod | None:
    if since is None:
        if until is not None:
            raise UsageRangeInvalid("Say from when on, too.", field="from")
        return None
    # Nothing will have been used by then.
    start, end = since, min(until or now, now + DAY)
    if start >= end:
        raise UsageRangeInvalid("The time that is asked for ends before it begins.", field="to")
    last = hour_of(end, time_zone)
    return BillingPeriod(hour_of(start, time_zone), last if last == end else last + HOUR)


def _encode(row: UsageRow) -> str:
    text = f"{row.at.astimezone(UTC).isoformat()} {row.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at, _, event_id = text.partition(" ")
        after = datetime.fromisoformat(at).replace(tzinfo=UTC)
    except (binascii.Error, ValueError):
        raise _foreign_cursor() from None
    if not is_storable(event_id):
        raise _foreign_cursor()
    return after, event_id


def _foreign_cursor() -> Invalid:
    return Invalid("This cursor was not made here.", field="cursor")
