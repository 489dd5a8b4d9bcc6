"""What is kept for repeats is forgotten in time."""

from datetime import timedelta

from sqlalchemy import insert, select

from services.auth.main import service
from shared.clock import utc_now
from shared.housekeeping import drop_old_answers
from shared.ids import new_id
from shared.schedule import Due
from tests.harness import Deployment, running


async def test_answers_are_kept_a_day_and_no_longer(deployment: Deployment) -> None:
    async with running(service, deployment, None, worker=False) as auth:
        runtime = auth.runtime
        keys = runtime.database.platform.idempotency_keys
        scope = str(new_id())
        now = utc_now()
        ages = {"fresh": timedelta(hours=23), "old": timedelta(hours=26)}
        async with runtime.begin() as uow:
            for key, age in ages.items():
                await uow.session.execute(
                    insert(keys).values(
                        scope=scope,
                        key=key,
                        request_hash=b"",
                        status=200,
                        headers={},
                        body=b"{}",
                        created_at=now - age,
                    )
                )

        dropped = await drop_old_answers(runtime, Due(now, runtime.database.platform))

        async with runtime.begin() as uow:
            left = (
                await uow.session.scalars(select(keys.c.key).where(keys.c.scope == scope))
            ).all()
    assert dropped >= 1
    assert left == ["fresh"]
