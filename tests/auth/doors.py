"""Auth and subscriptions as two services that only reach each other by HTTP and through Redis."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from services.auth.main import service as auth_service
from services.subscriptions.main import service as subscriptions_service
from shared.service import Service, Worker
from tests.auth.people import People, Person, an_address, from_address
from tests.harness import Deployment, Running, running
from tests.messaging.valve import Valve, a_valve
from tests.subscriptions.stand_in import served

#: What an operation answers to somebody whose access has ended.
OUT = 401


@dataclass(frozen=True)
class Named(Deployment):
    """An installation that has a name of its own."""

    name: str

    def settings(self, service: Service[Any, Any], **more: Any) -> Any:
        return super().settings(service, issuer=self.name, **more)


@dataclass
class Doors:
    """Both services, and what lies between them, which a test can take away."""

    people: People
    subscriptions: Running
    valve: Valve
    _worker: Worker | None
    _api: AsyncExitStack
    _redis: AsyncExitStack

    async def stop_worker(self) -> None:
        """Of auth."""
        if self._worker is not None:
            await self._worker.stop()
            self._worker = None

    async def stop_auth(self) -> None:
        """Both of its processes are gone; nobody listens where the API was."""
        await self._api.aclose()
        await self.stop_worker()

    async def stop_redis(self) -> None:
        """For both services."""
        await self._redis.aclose()

    async def at_auth(self, headers: dict[str, str], url: str = "/v1/projects") -> httpx.Response:
        return await self.people.http.get(url, headers=headers)

    async def elsewhere(
        self, headers: dict[str, str], url: str = "/v1/subscriptions"
    ) -> httpx.Response:
        return await self.subscriptions.http.get(url, headers=headers)

    async def let_in(self, headers: dict[str, str]) -> None:
        """Both services know the token by now, and take it."""
        for answer in (await self.at_auth(headers), await self.elsewhere(headers)):
            assert answer.status_code == 200, answer.text

    async def keep_out(self, headers: dict[str, str]) -> None:
        """Both refuse the token, or soon do."""
        await becomes(OUT, lambda: self.at_auth(headers))
        await becomes(OUT, lambda: self.elsewhere(headers))

    async def key(self, maker: Person, account_id: object | None = None, **more: object) -> str:
        body = {"name": "backend", "scopes": ["projects:read", "subscriptions:read"], **more}
        made = await self.people.http.post(
            f"/v1/accounts/{account_id or maker.account_id}/api-keys",
            json=body,
            headers=maker.headers,
        )
        assert made.status_code == 201, made.text
        return str(made.json()["key"])


async def becomes(status: int, ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """The first answer of this status, which is promised within five seconds."""
    async with asyncio.timeout(10):
        while True:
            answer = await ask()
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.05)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def doors(deployment: Deployment, mail_dir: Path) -> AsyncIterator[Doors]:
    """An installation of its own on the run's databases: nobody else publishes under its name."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(AsyncExitStack())
        valve = await redis.enter_async_context(a_valve(deployment.redis_url))
        name = f"doors-{secrets.token_hex(4)}"
        mine = Named(**{**asdict(deployment), "redis_url": valve.url}, name=name)
        auth = await stack.enter_async_context(
            running(auth_service, mine, None, worker=False, mail_dir=mail_dir)
        )
        worker = auth_service.create_worker(auth.runtime)
        await worker.start()
        api = await stack.enter_async_context(AsyncExitStack())
        url = await api.enter_async_context(served(auth_service.create_api(auth.runtime)))
        subscriptions = await stack.enter_async_context(
            running(
                subscriptions_service,
                mine,
                None,
                worker=False,
                jwks_url=f"{url}/.well-known/jwks.json",
            )
        )
        ip = an_address()
        app = auth_service.create_api(auth.runtime)
        http = await stack.enter_async_context(from_address(app, ip))
        people = People(auth, mail_dir, http, app, ip)
        made = Doors(people, subscriptions, valve, worker, api, redis)
        try:
            yield made
        finally:
            await made.stop_worker()


@asynccontextmanager
async def from_elsewhere(place: Doors) -> AsyncIterator[Doors]:
    """The same, asked from another network address: nobody uses up another's tries and mails."""
    ip = an_address()
    async with from_address(place.people.app, ip) as http:
        people = People(place.people.auth, place.people.mail_dir, http, place.people.app, ip)
        yield replace(place, people=people)


@contextmanager
def shut(valve: Valve) -> Iterator[None]:
    """Redis takes connections and answers nothing until the block ends."""
    valve.shut()
    try:
        yield
    finally:
        valve.open()
