"""What a running process of a service holds: settings, database, cache and its own things."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from redis.asyncio import Redis

from shared.db import SYSTEM, Database, Scope, UnitOfWork
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.security import Verifier

U = TypeVar("U", bound=UnitOfWork)
S = TypeVar("S", bound=Settings)


@dataclass
class Runtime(Generic[U, S]):
    """Given to endpoints (`request.app.state.runtime`) and to the jobs of the schedule."""

    settings: S
    database: Database[U]
    redis: Redis
    #: Set where tokens are looked at: in the API.
    verifier: "Verifier | None" = None
    #: What only this service has, by name: put there by its `resources` hook.
    own: dict[str, Any] = field(default_factory=dict)

    def begin(self, scope: Scope = SYSTEM) -> AbstractAsyncContextManager[U]:
        """Open a transaction. It commits when the block ends, and rolls back if it raises."""
        return self.database.begin(scope)
