"""What a dependency of many operations may refuse with, said once where it is written."""

from collections.abc import Callable
from typing import Any, TypeVar

from shared.errors import DomainError

F = TypeVar("F", bound=Callable[..., Any])

_REFUSALS: dict[Callable[..., Any], tuple[type[DomainError], ...]] = {}


def refuses(*errors: type[DomainError]) -> Callable[[F], F]:
    """Have every operation that depends on this declare these refusals."""

    def declare(dependency: F) -> F:
        _REFUSALS[dependency] = errors
        return dependency

    return declare


def refusals_of(dependency: Callable[..., Any] | None) -> tuple[type[DomainError], ...]:
    return _REFUSALS.get(dependency, ()) if dependency else ()
