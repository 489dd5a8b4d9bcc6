"""What staff see of the message path, and what they can do about it, over HTTP."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import Depends, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import func, select

from shared.db import UnitOfWork
from shared.errors import Invalid
from shared.messaging import dead_letters
from shared.messaging import replay as replays
from shared.web import (
    Edge,
    Page,
    PageRequest,
    Reading,
    RequestModel,
    Router,
    command,
    for_staff,
    page_request,
    problems,
    reading,
)

Staff = Annotated[Reading[UnitOfWork], Depends(reading)]
Command = Annotated[Edge[UnitOfWork], Depends(command)]
Pages = Annotated[PageRequest, Depends(page_request)]

#: More letters or events than this in one request: narrow the range, or use the command line.
MOST_LETTERS = 1_000
MOST_EVENTS = 100_000


class RefusedEventView(BaseModel):
    """An event that the broker would not take; it is offered again from time to time."""

    id: UUID
    type: str
    account_id: UUID
    created_at: datetime
    refused_at: datetime
    error: str | None


class OutboxView(BaseModel):
    """What waits to be published. A healthy outbox has nothing older than a second."""

    unpublished: int
    oldest_age_seconds: float
    refused: int
    latest_refused: list[RefusedEventView]


class ReplayRequest(RequestModel):
    """A range of published events. Handlers that took an event before drop the repeat."""

    since: datetime
    until: datetime
    types: list[str] = Field(default_factory=list, max_length=200)
    account_id: UUID | None = None
    aggregate_id: UUID | None = None
    consumer: str | None = Field(None, description="Only this handler's queue; null is all.")
    dry_run: bool = Field(default=True, description="Count, and send nothing.")


class ReplayView(BaseModel):
    dry_run: bool
    count: int
    by_type: dict[str, int]


class DeadLetterView(BaseModel):
    """A message that one handler gave up on."""

    id: UUID
    consumer: str
    event_id: UUID | None
    event_name: str | None
    account_id: UUID | None
    aggregate_id: UUID | None
    sequence: int | None
    reason: str
    cause: str
    error: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    status: str
    closed_at: datetime | None
    closed_by: str | None
    replaced_by: UUID | None

    @classmethod
    def of(cls, row: Any) -> "DeadLetterView":
        return cls.model_validate(row._mapping)  # noqa: SLF001  (the public name of a row's items)


class LetterQuery(BaseModel):
    """Which letters to list."""

    status: Literal["parked", "replayed", "edited", "discarded", "all"] = "parked"
    consumer: str | None = Field(None, max_length=200)
    event_name: str | None = Field(None, max_length=200)
    reason: str | None = Field(None, max_length=200)
    cause: str | None = Field(None, max_length=500)
    account_id: UUID | None = None

    def filter(self) -> dead_letters.Filter:
        status = None if self.status == "all" else self.status
        return dead_letters.Filter(
            status, self.consumer, self.event_name, self.reason, self.cause, self.account_id
        )


class HistoryView(BaseModel):
    at: datetime
    actor: str
    action: str


class DeadLetterDetailView(DeadLetterView):
    """The letter with everything there is to judge it by."""

    body: Any
    headers: dict[str, Any]
    traceback: str | None
    history: list[HistoryView]


class CauseView(BaseModel):
    """How many open letters have one cause."""

    consumer: str
    event_name: str | None
    reason: str
    cause: str
    count: int
    first_failed_at: datetime
    last_failed_at: datetime


class CausesView(BaseModel):
    data: list[CauseView]


class EditRequest(RequestModel):
    """The event's payload as it should have been; the copy is a new event, caused by the old."""

    data: dict[str, Any]


class ManyRequest(RequestModel):
    """Which open letters are meant: those that match all that is given."""

    consumer: str | None = None
    event_name: str | None = None
    reason: str | None = None
    cause: str | None = None
    account_id: UUID | None = None
    dry_run: bool = Field(default=True, description="Count, and do nothing.")

    def filter(self) -> dead_letters.Filter:
        return dead_letters.Filter(
            "parked", self.consumer, self.event_name, self.reason, self.cause, self.account_id
        )


class ManyView(BaseModel):
    """How many it would be, or were: at most 1,000 in one request, the oldest first."""

    dry_run: bool
    count: int


router = Router(tags=["operations"])


@router.get("/outbox", response_model=OutboxView, dependencies=[for_staff()])
async def show_outbox(staff: Staff) -> Response:
    async with staff.begin() as uow:
        return staff.reply(await _outbox(uow))


@router.post(
    "/outbox/replay",
    response_model=ReplayView,
    responses=problems(Invalid),
    dependencies=[for_staff("admin")],
)
async def replay_outbox(body: ReplayRequest, edge: Command) -> Response:
    selection = replays.Selection(
        since=body.since.astimezone(UTC),
        until=body.until.astimezone(UTC),
        types=body.types,
        account_id=body.account_id,
        aggregate_id=body.aggregate_id,
        consumer=body.consumer,
    )
    async with edge.begin() as uow:
        by_type = await replays.count(uow, selection)
        number = sum(by_type.values())
        if not body.dry_run:
            if number > MOST_EVENTS:
                raise Invalid(
                    f"That are {number} events. Take a shorter range, or the command line: "
                    f"python -m services.{uow.platform.schema} replay.",
                    field="until",
                )
            number = await replays.replay(uow, selection)
        view = ReplayView(dry_run=body.dry_run, count=number, by_type=by_type)
        return await edge.answer(uow, view)


@router.get("/dead-letters", response_model=Page[DeadLetterView], dependencies=[for_staff()])
async def list_dead_letters(
    staff: Staff,
    pages: Pages,
    wanted: Annotated[LetterQuery, Query()],
) -> Response:
    async with staff.begin() as uow:
        letters = dead_letters.table(uow)
        statement = pages.narrow(wanted.filter().narrow(uow, select(letters)), letters.c.id)
        rows = (await uow.session.execute(statement)).all()
    page = pages.page(rows, DeadLetterView.of, lambda row: row.id)
    return staff.reply(page)


@router.get("/dead-letters/causes", response_model=CausesView, dependencies=[for_staff()])
async def count_dead_letters_by_cause(staff: Staff) -> Response:
    async with staff.begin() as uow:
        found = await dead_letters.by_cause(uow)
    return staff.reply(CausesView(data=[CauseView.model_validate(row) for row in found]))


@router.post("/dead-letters/replay", response_model=ManyView, dependencies=[for_staff("admin")])
async def replay_many_dead_letters(body: ManyRequest, edge: Command) -> Response:
    return await _decide_many(body, edge, dead_letters.replay)


@router.post("/dead-letters/discard", response_model=ManyView, dependencies=[for_staff("admin")])
async def discard_many_dead_letters(body: ManyRequest, edge: Command) -> Response:
    return await _decide_many(body, edge, dead_letters.discard)


@router.get(
    "/dead-letters/{letter_id}",
    response_model=DeadLetterDetailView,
    responses=problems(dead_letters.DeadLetterNotFound),
    dependencies=[for_staff()],
)
async def show_dead_letter(letter_id: UUID, staff: Staff) -> Response:
    async with staff.begin() as uow:
        return staff.reply(await _detail(uow, letter_id))


REFUSALS = problems(dead_letters.DeadLetterNotFound, dead_letters.DeadLetterClosed, Invalid)


@router.post(
    "/dead-letters/{letter_id}/replay",
    response_model=DeadLetterDetailView,
    responses=REFUSALS,
    dependencies=[for_staff("admin")],
)
async def replay_dead_letter(letter_id: UUID, edge: Command) -> Response:
    async with edge.begin() as uow:
        await dead_letters.replay(uow, letter_id)
        return await edge.answer(uow, await _detail(uow, letter_id))


@router.post(
    "/dead-letters/{letter_id}/edit-replay",
    response_model=DeadLetterDetailView,
    responses=REFUSALS,
    dependencies=[for_staff("admin")],
)
async def edit_and_replay_dead_letter(
    letter_id: UUID, body: EditRequest, edge: Command
) -> Response:
    async with edge.begin() as uow:
        await dead_letters.replay(uow, letter_id, data=body.data)
        return await edge.answer(uow, await _detail(uow, letter_id))


@router.post(
    "/dead-letters/{letter_id}/discard",
    response_model=DeadLetterDetailView,
    responses=REFUSALS,
    dependencies=[for_staff("admin")],
)
async def discard_dead_letter(letter_id: UUID, edge: Command) -> Response:
    async with edge.begin() as uow:
        await dead_letters.discard(uow, letter_id)
        return await edge.answer(uow, await _detail(uow, letter_id))


def ops_router(service: str) -> Router:
    """`/v1/ops/<service>/…`, for staff alone. Whatever changes something is audited."""
    made = Router(prefix=f"/v1/ops/{service}")
    made.include_router(router)
    return made


async def _decide_many(
    body: ManyRequest, edge: Edge[UnitOfWork], decide: Callable[[UnitOfWork, UUID], Awaitable[Any]]
) -> Response:
    async with edge.begin() as uow:
        if body.dry_run:
            number = await dead_letters.count_open(uow, body.filter())
        else:
            found = await dead_letters.take_many(uow, body.filter(), most=MOST_LETTERS)
            number = len(found)
            for letter_id in found:
                await decide(uow, letter_id)
        return await edge.answer(uow, ManyView(dry_run=body.dry_run, count=number))


async def _outbox(uow: UnitOfWork) -> OutboxView:
    outbox = uow.platform.outbox
    waiting = (
        await uow.session.execute(
            select(
                func.count(),
                func.coalesce(func.extract("epoch", func.now() - func.min(outbox.c.created_at)), 0),
            ).where(outbox.c.sent_at.is_(None), outbox.c.refused_at.is_(None))
        )
    ).one()
    refused = await uow.session.scalar(
        select(func.count()).select_from(outbox).where(outbox.c.refused_at.is_not(None))
    )
    latest = await uow.session.execute(
        select(outbox)
        .where(outbox.c.refused_at.is_not(None))
        .order_by(outbox.c.refused_at.desc())
        .limit(20)
    )
    return OutboxView(
        unpublished=waiting[0],
        oldest_age_seconds=float(waiting[1]),
        refused=refused or 0,
        latest_refused=[
            RefusedEventView(
                id=row.id,
                type=row.routing_key,
                account_id=row.account_id,
                created_at=row.created_at,
                refused_at=row.refused_at,
                error=row.error,
            )
            for row in latest
        ],
    )


async def _detail(uow: UnitOfWork, letter_id: UUID) -> DeadLetterDetailView:
    letter = await dead_letters.get(uow, letter_id)
    audit_log = uow.platform.audit_log
    history = await uow.session.execute(
        select(audit_log).where(audit_log.c.subject == str(letter_id)).order_by(audit_log.c.id)
    )
    return DeadLetterDetailView.model_validate(
        {
            **letter._mapping,  # noqa: SLF001  (the public name of a row's items)
            "body": _readable(bytes(letter.body)),
            "history": [
                HistoryView(at=row.at, actor=row.actor, action=row.action) for row in history
            ],
        }
    )


def _readable(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")
