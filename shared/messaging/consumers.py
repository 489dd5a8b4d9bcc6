"""How a service declares what it does when another one reports something."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.events import Event

Handle = Callable[[Any, Any], Awaitable[None]]
Prepare = Callable[[Any, Sequence[Any]], Awaitable[None]]
H = TypeVar("H", bound=Handle)


@dataclass(frozen=True)
class Handler:
    """One queue and what happens with its messages.

    `patterns` are the routing keys that the queue is bound to. What comes and is not in `events`
    is passed over, whether this release knows of it or not. `ordered` names the kind of aggregate
    whose events are applied strictly in sequence: the queue then hears all of them, and those
    that are not in `events` only move the cursor. With `batch` the function gets the list of
    events that are handled in one transaction. `prepare` is called before them with all of a
    transaction's events: it reads at once what each of them will need.
    """

    queue: str
    events: tuple[type[Event], ...]
    patterns: tuple[str, ...]
    handle: Handle
    every: bool = False
    ordered: str | None = None
    batch: bool = False
    prepare: Prepare | None = None


class Consumers:
    """The handlers of one service; queue names are `<service>.<function>`."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.handlers: dict[str, Handler] = {}

    def handler(
        self,
        *,
        on: Sequence[type[Event]] = (),
        every: bool = False,
        ordered: str | None = None,
        batch: bool = False,
        prepare: Prepare | None = None,
    ) -> Callable[[H], H]:
        """Have the decorated function handle these events (or, with `every`, all there are).

        The function gets `(uow, event)` inside a transaction that also claims the event, so its
        effect happens once; it raises a refusal to park the event and anything else to have it
        tried again later. It does no I/O but the database. With `every` it gets the `Envelope`
        instead, for some of the events are of a later release, which this one cannot read.
        """

        def add(handle: H) -> H:
            queue = f"{self.service}.{handle.__name__}"
            if queue in self.handlers:
                raise TypeError(f"two handlers are called {queue}")
            if not every and not on:
                raise TypeError(f"{queue} handles nothing")
            if every:
                patterns: tuple[str, ...] = ("#",)
            elif ordered:
                patterns = (f"{ordered}.*",)
            else:
                patterns = tuple(event.name for event in on)
            self.handlers[queue] = Handler(
                queue, tuple(on), patterns, handle, every, ordered, batch, prepare
            )
            return handle

        return add

    def bindings(self) -> dict[str, tuple[str, ...]]:
        """The routing keys of each queue."""
        return {queue: handler.patterns for queue, handler in self.handlers.items()}
