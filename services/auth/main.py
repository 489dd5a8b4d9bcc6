"""The auth service, wired together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.auth.consumers import consumers
from services.auth.repository import AuthUnitOfWork
from services.auth.resources import AuthRuntime, resources, verifier
from services.auth.schedule import schedule
from services.auth.settings import AuthSettings
from services.auth.tables import metadata
from shared.service import Service

if TYPE_CHECKING:
    from fastapi import APIRouter

    from shared.web.key_rules import KeyRules


def routers() -> "Sequence[APIRouter]":
    """Imported when asked for: the worker does without, and with less memory."""
    from services.auth.api import routers  # noqa: PLC0415

    return routers


def key_rules() -> "KeyRules":
    from services.auth.api.key_rules import KEY_RULES  # noqa: PLC0415 -- as above

    return KEY_RULES


async def staff(runtime: AuthRuntime, arguments: list[str]) -> int:
    from services.auth import commands  # noqa: PLC0415 -- as above

    return await commands.staff(runtime, arguments)


async def key(runtime: AuthRuntime, arguments: list[str]) -> int:
    from services.auth import commands  # noqa: PLC0415 -- as above

    return await commands.key(runtime, arguments)


async def rotate(runtime: AuthRuntime, arguments: list[str]) -> int:
    from services.auth import commands  # noqa: PLC0415 -- as above

    return await commands.rotate(runtime, arguments)


async def after_migrate(runtime: AuthRuntime) -> None:
    from services.auth import commands  # noqa: PLC0415 -- as above

    await commands.after_migrate(runtime)


service = Service(
    name="auth",
    description="Users, accounts and their members, sessions, keys, projects, and all mail.",
    settings=AuthSettings,
    metadata=metadata,
    unit_of_work=AuthUnitOfWork,
    routers=routers,
    key_rules=key_rules,
    consumers=consumers,
    schedule=schedule,
    resources=resources,
    verifier=verifier,
    commands={"staff": staff, "key": key, "rotate-keys": rotate},
    after_migrate=after_migrate,
)
