"""What every service tidies up by itself."""

from datetime import timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, delete, select, tuple_

from shared.runtime import Runtime
from shared.schedule import Due, Job

#: A day is promised; the hour on top is for a repeat that is on its way.
ANSWERS_KEPT = timedelta(hours=25)
BATCH = 1000


async def drop_old_answers(runtime: Runtime[Any, Any], due: Due) -> int:
    """Forget the answers that were kept for repeats with an `Idempotency-Key`."""
    if due.account_id is not None:
        return 0  # keys live in real time, whatever a test clock says
    keys = due.platform.idempotency_keys
    old = (
        select(keys.c.scope, keys.c.key)
        .where(keys.c.created_at < due.now - ANSWERS_KEPT)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    async with runtime.begin() as uow:
        result = await uow.session.execute(
            delete(keys).where(tuple_(keys.c.scope, keys.c.key).in_(old))
        )
        return cast("CursorResult[Any]", result).rowcount


def housekeeping() -> list[Job]:
    """The jobs that each worker runs beside its service's own."""
    return [Job("drop_old_answers", 3600, drop_old_answers)]
