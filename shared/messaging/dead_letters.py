"""Dead letters: what no handler could take, kept with its cause until a person decides."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Select, Table, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from shared.clock import utc_now
from shared.db import OPERATOR, UnitOfWork
from shared.errors import Conflict, Invalid, NotFound
from shared.ids import new_id
from shared.messaging import envelope
from shared.messaging.inbox import Inbox

#: A header of what is sent again. All of them go round what Redis remembers; `again` is a range
#: of the outbox, `replay` a dead letter, and `discard` has an ordered handler pass over one.
ACTION = "perennial-action"
AGAIN, REPLAY, DISCARD = "again", "replay", "discard"
#: A header that names the one handler that a message is for.
ONLY = "perennial-only"


class DeadLetterNotFound(NotFound):
    code = "dead-letter-not-found"


class DeadLetterClosed(Conflict):
    code = "dead-letter-closed"


@dataclass(frozen=True)
class DeadLetter:
    """One message that one handler gave up on. `reason` groups them; `error` tells more."""

    id: UUID
    consumer: str
    event_id: UUID | None
    event_name: str | None
    account_id: UUID | None
    aggregate_id: UUID | None
    sequence: int | None
    body: bytes
    headers: dict[str, Any]
    reason: str
    cause: str
    error: str
    traceback: str | None
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime

    @classmethod
    def of(
        cls,
        consumer: str,
        body: bytes,
        *,
        headers: dict[str, Any],
        reason: str,
        cause: str,
        error: str,
        traceback: str | None = None,
        attempts: int,
        first_failed_at: datetime | None = None,
    ) -> Self:
        """A letter about a message, with as much as can be read of it."""
        now = utc_now()
        try:
            found: envelope.Envelope | None = envelope.read(body)
        except envelope.Malformed:
            found = None
        return cls(
            id=new_id(),
            consumer=consumer,
            event_id=found.id if found else None,
            event_name=found.type if found else None,
            account_id=found.account_id if found else None,
            aggregate_id=found.subject if found else None,
            sequence=found.sequence if found else None,
            body=body,
            headers=headers,
            reason=reason,
            cause=cause,
            error=error,
            traceback=traceback,
            attempts=attempts,
            first_failed_at=first_failed_at or now,
            last_failed_at=now,
        )


@dataclass(frozen=True)
class Filter:
    """Which dead letters are meant; what is None narrows nothing."""

    status: str | None = "parked"
    consumer: str | None = None
    event_name: str | None = None
    reason: str | None = None
    cause: str | None = None
    account_id: UUID | None = None

    def narrow(self, uow: UnitOfWork, statement: Select[Any]) -> Select[Any]:
        letters = table(uow)
        for name, value in asdict(self).items():
            if value is not None:
                statement = statement.where(letters.c[name] == value)
        return statement


def table(uow: UnitOfWork) -> Table:
    return uow.platform.table("dead_letters")


async def park(uow: UnitOfWork, letter: DeadLetter) -> bool:
    """File it, unless its handler has taken the event meanwhile; whether it was filed.

    From then on the inbox holds the event off, like one that is done.
    """
    if letter.event_id is not None:
        inbox = Inbox(uow.platform.schema, letter.consumer)
        if not await inbox.claim(uow, [letter.event_id]):
            return False
    letters = table(uow)
    statement = upsert(letters).values(**asdict(letter))
    await uow.session.execute(
        statement.on_conflict_do_update(
            index_elements=["consumer", "event_id"],
            index_where=text("status = 'parked'"),
            set_={
                name: statement.excluded[name]
                for name in ("last_failed_at", "attempts", "error", "traceback", "reason", "cause")
            },
        )
    )
    return True


async def get(uow: UnitOfWork, letter_id: UUID) -> Any:
    """The letter as it is. Raises `DeadLetterNotFound`."""
    letters = table(uow)
    found = (
        await uow.session.execute(select(letters).where(letters.c.id == letter_id))
    ).one_or_none()
    if found is None:
        raise DeadLetterNotFound("There is no such dead letter.")
    return found


async def count_open(uow: UnitOfWork, wanted: Filter) -> int:
    """How many letters are meant: the dry run."""
    letters = table(uow)
    statement = wanted.narrow(uow, select(func.count()).select_from(letters))
    return int(await uow.session.scalar(statement) or 0)


async def take_many(uow: UnitOfWork, wanted: Filter, *, most: int) -> list[UUID]:
    """The oldest letters that are meant, locked, at most so many.

    What somebody else decides at this moment is left to them.
    """
    letters = table(uow)
    statement = wanted.narrow(uow, select(letters.c.id)).order_by(letters.c.id).limit(most)
    return list(await uow.session.scalars(statement.with_for_update(skip_locked=True)))


async def take_open(uow: UnitOfWork, letter_id: UUID) -> Any:
    """The letter, locked. Raises `DeadLetterNotFound`, or `DeadLetterClosed` once decided."""
    letters = table(uow)
    found = (
        await uow.session.execute(
            select(letters).where(letters.c.id == letter_id).with_for_update()
        )
    ).one_or_none()
    if found is None:
        raise DeadLetterNotFound("There is no such dead letter.")
    if found.status != "parked":
        raise DeadLetterClosed(f"This dead letter was {found.status} before.")
    return found


async def replay(
    uow: UnitOfWork, letter_id: UUID, *, data: dict[str, Any] | None = None
) -> UUID | None:
    """Send it again to its handler alone, and close it; answers with the event's id.

    With `data` the event's payload is replaced: the copy is a new event, caused by the old one.
    """
    letter = await take_open(uow, letter_id)
    body = bytes(letter.body)
    event_id: UUID | None = letter.event_id
    if data is not None:
        event_id = new_id()
        body = _edited(body, event_id, data)
    await _send_back(uow, letter, body, REPLAY)
    if event_id is not None:
        await Inbox(uow.platform.schema, letter.consumer).reopen(uow, event_id)
    if data is None:
        await _close(uow, letter, "replayed")
    else:
        await _close(uow, letter, "edited", replaced_by=event_id)
    return event_id


async def discard(uow: UnitOfWork, letter_id: UUID) -> None:
    """Give it up. An ordered handler passes over it and goes on with what waited behind it."""
    letter = await take_open(uow, letter_id)
    if letter.event_id is not None:
        await _send_back(uow, letter, bytes(letter.body), DISCARD)
    await _close(uow, letter, "discarded")


async def _send_back(uow: UnitOfWork, letter: Any, body: bytes, action: str) -> None:
    """Put a message to the letter's handler alone into the outbox."""
    uow.send(
        {
            "id": new_id(),
            "part": envelope.part_of(letter.aggregate_id or letter.id),
            "exchange": f"{uow.platform.schema}.deliver",
            "routing_key": letter.consumer,
            "aggregate_id": letter.aggregate_id or letter.id,
            "account_id": letter.account_id or OPERATOR,
            "sequence": letter.sequence or 0,
            "body": body,
            "headers": {ACTION: action},
        }
    )


async def by_cause(uow: UnitOfWork) -> list[dict[str, Any]]:
    """The open ones, counted by handler, event, reason and cause; the most first."""
    letters = table(uow)
    count = func.count().label("count")
    columns = (letters.c.consumer, letters.c.event_name, letters.c.reason, letters.c.cause)
    rows = await uow.session.execute(
        select(
            *columns,
            count,
            func.min(letters.c.first_failed_at).label("first_failed_at"),
            func.max(letters.c.last_failed_at).label("last_failed_at"),
        )
        .where(letters.c.status == "parked")
        .group_by(*columns)
        .order_by(count.desc())
    )
    return [dict(row) for row in rows.mappings()]


def _edited(body: bytes, event_id: UUID, data: dict[str, Any]) -> bytes:
    try:
        found = envelope.read(body)
        copy = envelope.edited(body, event_id, data)
        event = envelope.parse(copy)
    except (envelope.Malformed, envelope.UnknownEvent) as error:
        raise Invalid(f"The event would not hold its promise: {error}", field="data") from error
    if event.subject != found.subject:
        raise Invalid("An edited event stays about the same aggregate.", field="data")
    return copy


async def _close(
    uow: UnitOfWork, letter: Any, status: str, *, replaced_by: UUID | None = None
) -> None:
    letters = table(uow)
    await uow.session.execute(
        update(letters)
        .where(letters.c.id == letter.id)
        .values(
            status=status,
            closed_at=utc_now(),
            closed_by=uow.scope.actor,
            replaced_by=replaced_by,
        )
    )
    uow.audit(
        f"dead_letter.{status}",
        letter.id,
        account_id=letter.account_id,
        before={"consumer": letter.consumer, "event_id": str(letter.event_id)},
    )
