"""What keys may ask for: of each operation the scope that it needs, or why no key may.

A service has one table of these, by method and path. It is looked at before anything else is done
for a request with a key, and an application with an operation that its table does not know does
not start: a new operation is closed to keys until somebody has said whom it is open to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts

from shared.errors import Forbidden
from shared.security import Caller, KeyScope
from shared.web.routing import all_dependants

#: Under it lies what people look into and repair, in every service alike.
OPERATIONS = "/v1/ops/"


class ScopeMissing(Forbidden):
    """The key is good, and was made without the scope that this takes: make one that has it."""

    code = "scope-missing"


class NotForKeys(Forbidden):
    """Only people do this, after they logged in: keys have no scope for it."""

    code = "not-for-keys"


@dataclass(frozen=True, slots=True)
class KeyRule:
    """Open to keys with one of `scopes`; `None` is any key. Or closed to all, with a reason."""

    scopes: tuple[KeyScope, ...] | None = None
    reason: str | None = None

    def check(self, caller: Caller) -> None:
        """Refuses a key that may not. People are not narrowed by scopes."""
        if caller.scopes is None:
            return
        if self.reason is not None:
            raise NotForKeys(f"This is not for keys: {self.reason}.")
        if self.scopes is not None and caller.scopes.isdisjoint(self.scopes):
            raise ScopeMissing(f"This key lacks the scope {' or '.join(self.scopes)}.")


#: For what anybody may read, too; who the key is decides how much of it.
ANY_KEY = KeyRule()
KeyRules = Mapping[str, KeyRule]


def keys_with(*scopes: KeyScope) -> KeyRule:
    """One of these scopes is enough."""
    return KeyRule(scopes=scopes)


def no_keys(reason: str) -> KeyRule:
    """`reason` goes on where "This is not for keys:" ends, and is told to whoever tries."""
    return KeyRule(reason=reason)


FOR_PEOPLE = no_keys("the operator's own people look into this and repair it")


def install_key_rules(app: FastAPI, rules: KeyRules) -> None:
    """Have every operation of the application know its rule. Raises where one has none."""
    operations = dict(operations_of(app))
    found = {name: rule_of(name, rules) for name in operations}
    missing = [
        name for name, (_, takes) in operations.items() if asks_who(takes) and not found[name]
    ]
    unknown = sorted(set(rules) - set(operations))
    if missing or unknown:
        raise RuntimeError(f"Without a rule for keys: {missing}. Rules without use: {unknown}.")
    app.state.key_rules = {id(route): found[name] for name, (route, _) in operations.items()}


def check_key(request: Request, caller: Caller) -> None:
    """Refuse a key that may not ask for this operation, or not from where it is."""
    if caller.scopes is None:
        return
    caller.require_address(request.client.host if request.client else None)
    rule: KeyRule | None = request.app.state.key_rules.get(id(request.scope["route"]))
    (rule or FOR_PEOPLE).check(caller)


def rule_of(operation: str, rules: KeyRules) -> KeyRule | None:
    """The rule of `GET /v1/…`; None for what says nothing, such as an operation without a token."""
    path = operation.partition(" ")[2]
    return rules.get(operation) or (FOR_PEOPLE if path.startswith(OPERATIONS) else None)


def operations_of(app: FastAPI) -> Iterator[tuple[str, tuple[APIRoute, Dependant]]]:
    """Every documented operation, as `GET /v1/…`, with its route and what it depends on."""
    for context in iter_route_contexts(app.routes):
        route: Any = context.original_route
        if isinstance(route, APIRoute) and context.include_in_schema:
            for method in sorted(context.methods or ()):
                yield f"{method} {context.path_format}", (route, context.dependant)


def asks_who(dependant: Dependant) -> bool:
    """Whether a token is looked at."""
    return any(
        field.alias == "authorization"
        for one in all_dependants(dependant)
        for field in one.header_params
    )
