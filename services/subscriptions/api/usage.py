"""Usage events: one by one or a thousand at once, each counted once."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Response
from pydantic import AwareDatetime, BaseModel, Field

from services.subscriptions.api.edge import Command, RequestModel
from services.subscriptions.domain.catalog import MeterNotFound
from services.subscriptions.domain.price import plain
from services.subscriptions.domain.usage import (
    StoredUsage,
    UsageEventNotFound,
    UsageHasNoSubscription,
    UsageTooEarly,
    UsageTooLate,
)
from services.subscriptions.tables import UsageRow
from services.subscriptions.use_cases.record_usage import (
    Outcome,
    Report,
    record_usage,
    void_usage,
)
from shared.web import problems

router = APIRouter(prefix="/v1/usage-events", tags=["usage"])

MOST_AT_ONCE = 1000


class UsageRequest(RequestModel):
    """`id` is the sender's own and makes the event count once.

    `value` may be negative to correct a sum. `member` is what unique counts tell apart.
    """

    id: str = Field(min_length=1, max_length=200)
    meter: str = Field(min_length=1, max_length=100)
    value: Annotated[Decimal, Field(max_digits=24, decimal_places=9)] = Decimal(1)
    member: str | None = Field(None, min_length=1, max_length=200)
    at: AwareDatetime | None = None
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
    def of(cls, row: UsageRow | StoredUsage) -> "UsageView":
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
    "",
    status_code=201,
    response_model=UsageView,
    responses=problems(MeterNotFound, UsageHasNoSubscription, UsageTooEarly, UsageTooLate),
)
async def record(body: UsageRequest, command: Command) -> Response:
    """Count one event. The same id again answers as the first time did."""
    command.caller.require_scope("usage:write")
    async with command.begin() as uow:
        (outcome,) = await record_usage(uow, command.account_id, [body.report()], now=command.now)
        if outcome.refusal is not None or outcome.row is None:
            raise outcome.refusal or UsageEventNotFound("The event was not stored.")
        return await command.answer(uow, UsageView.of(outcome.row), status=201)


@router.post("/batch", response_model=BatchView)
async def record_batch(body: BatchRequest, command: Command) -> Response:
    """Count up to 1,000 events; each is told for itself what became of it."""
    command.caller.require_scope("usage:write")
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


@router.delete("/{event_id}", response_model=UsageView, responses=problems(UsageEventNotFound))
async def void(event_id: str, command: Command) -> Response:
    """Correct a mistake: the event no longer counts, and its id stays used."""
    command.caller.require_scope("usage:write")
    async with command.begin() as uow:
        row = await void_usage(uow, command.account_id, event_id)
        return await command.answer(uow, UsageView.of(row))
