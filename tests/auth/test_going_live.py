"""A database of development does not become one of production with everybody's staff user in it."""

import asyncio

import pytest
from pydantic import SecretStr

from services.auth.commands import DevelopmentStaff, after_migrate
from services.auth.main import service
from services.auth.settings import DEVELOPMENT_STAFF
from services.auth.use_cases.administer_users import change_staff_role
from shared import migrations
from shared.clock import utc_now
from shared.ids import new_id
from tests.auth.people import PASSWORD
from tests.databases import FreshDatabase
from tests.harness import Deployment


async def test_production_is_not_deployed_while_the_staff_user_of_development_comes_in(
    deployment: Deployment, empty_database: FreshDatabase
) -> None:
    url = empty_database.url("auth")
    await asyncio.to_thread(migrations.upgrade, "auth", url)
    own = Deployment({"auth": url}, deployment.broker_url, deployment.redis_url)
    first = {"staff_email": DEVELOPMENT_STAFF, "staff_password": SecretStr(PASSWORD)}
    async with service.open(own.settings(service, **first)) as runtime:
        await after_migrate(runtime)

    async with service.open(own.settings(service, environment="production")) as runtime:
        with pytest.raises(DevelopmentStaff):
            await after_migrate(runtime)
        async with runtime.begin() as uow:
            user = await uow.users.find_by_address(DEVELOPMENT_STAFF)
            assert user is not None
            await change_staff_role(uow, user, None, by=new_id(), now=utc_now())
        await after_migrate(runtime)
