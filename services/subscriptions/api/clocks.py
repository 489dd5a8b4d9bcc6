"""Test clocks: simulated time for one account, where the deployment allows it."""

import asyncio
import time
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Response
from pydantic import AwareDatetime

from services.subscriptions import queries
from services.subscriptions.api.edge import Command, Query
from services.subscriptions.api.views import ClockView
from services.subscriptions.domain.account import AccountIsClosed, AccountNotFound, AccountNotReady
from services.subscriptions.domain.testclock import (
    ClockExists,
    ClockInvalid,
    ClockNotFound,
    ClockStatus,
)
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.run_test_clock import (
    TestClocksOff,
    advance_clock,
    create_clock,
    delete_clock,
)
from shared.errors import TestClockBusy
from shared.web import Edge, RequestModel, Router, for_staff, problems

router = Router(prefix="/v1/test-clocks", tags=["test clocks"])

LOOK_EVERY_SECONDS = 0.03


async def clock_command(command: Command) -> Edge[Any]:
    """For no account, whichever one the caller acts for: a clock that moves is no hindrance."""
    body = await command.request.body()
    return Edge(command.request, command.caller, None, command.key, body)


ClockCommand = Annotated[Edge[SubscriptionsUnitOfWork], Depends(clock_command)]


class ClockRequest(RequestModel):
    account_id: UUID
    now: AwareDatetime


class AdvanceRequest(RequestModel):
    to: AwareDatetime


@router.post(
    "",
    status_code=201,
    response_model=ClockView,
    responses=problems(
        ClockExists, ClockInvalid, TestClocksOff, AccountNotFound, AccountNotReady, AccountIsClosed
    ),
    dependencies=[for_staff("finance")],
)
async def create(body: ClockRequest, command: ClockCommand) -> Response:
    """Freeze an account at `now` (staff). Answers when all services have heard of it."""
    async with command.begin() as uow:
        clock = await create_clock(uow, body.account_id, now=body.now)
        view = ClockView.of(clock)
        answer = await command.answer(uow, view, status=201)
    return await _when_ready(command, view) or answer


@router.get("/{clock_id}", response_model=ClockView, responses=problems(ClockNotFound))
async def read(clock_id: UUID, query: Query) -> Response:
    """Where the clock is, and what it waits for."""
    async with query.begin() as uow:
        return query.reply(ClockView.of(await queries.read_clock(uow, clock_id)))


@router.post(
    "/{clock_id}/advance",
    response_model=ClockView,
    responses={
        202: {"model": ClockView, "description": "On its way: ask GET until it is ready."},
        **problems(ClockNotFound, TestClockBusy, ClockInvalid, TestClocksOff),
    },
    dependencies=[for_staff("finance")],
)
async def advance(clock_id: UUID, body: AdvanceRequest, command: ClockCommand) -> Response:
    """Move the account's time (staff): all that falls due happens in order, everywhere.

    200 once it is there; 202 with the progress when that takes long: ask GET until `ready`.
    """
    async with command.begin() as uow:
        clock = await advance_clock(uow, clock_id, to=body.to)
        view = ClockView.of(clock)
        answer = await command.answer(uow, view, status=202)
    return await _when_ready(command, view) or answer


@router.delete(
    "/{clock_id}",
    status_code=204,
    responses=problems(ClockNotFound),
    dependencies=[for_staff("finance")],
)
async def delete(clock_id: UUID, command: ClockCommand) -> Response:
    """Put the account back into real time (staff)."""
    async with command.begin() as uow:
        await delete_clock(uow, clock_id)
        return await command.answer(uow, status=204)


async def _when_ready(command: ClockCommand, asked: ClockView) -> Response | None:
    """The clock once it has arrived, or None when that takes longer than a request may."""
    deadline = time.monotonic() + command.runtime.settings.test_clock_wait_seconds
    while time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
        async with command.runtime.begin() as uow:
            clock = await queries.read_clock(uow, asked.id)
            if clock.status is ClockStatus.READY:
                created = asked.rounds <= 1
                return command.reply(ClockView.of(clock), status=201 if created else 200)
    return None
