"""Routes that are strict about what they are asked, and know their neighbours."""

from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from shared.web.bodies import UNSTORABLE, Incoming, RequestModel


class Route(APIRoute):
    """A route that reads its JSON by our rules, and says so only to those who may ask."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def read_strictly(request: Request) -> Response:
            incoming = Incoming(request.scope, request.receive)
            try:
                return await answer(incoming)
            except RequestValidationError as error:
                if incoming.fault is None:
                    raise
                raise RequestValidationError([incoming.fault]) from error

        return read_strictly


class Router(APIRouter):
    """Where a service's operations are routed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=Route, **options)


def close_doors(app: FastAPI) -> None:
    """Have every operation refuse what it does not know. Raises for one that cannot."""
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        if not isinstance(route.original_route, Route):
            raise TypeError(f"{route.path} was not made by shared.web.Router")
        body = route.body_field
        if body is not None and not _is_strict(body.field_info.annotation):
            raise TypeError(f"the body of {route.path} is no RequestModel")
        for one in all_dependants(route.dependant):
            for field in one.query_params:
                if not _is_bounded(field.field_info):
                    raise TypeError(f"{field.alias} of {route.path} is an instant, but no Instant")
        # The last of the dependencies: rights come first, and nothing has happened yet.
        route.dependant.dependencies.append(
            get_parameterless_sub_dependant(
                depends=Depends(_only(query_parameters(route.dependant))), path=route.path or ""
            )
        )


def methods_of(app: FastAPI, path: str) -> set[str]:
    """Every method that some operation at this path has."""
    return {
        method
        for route in iter_route_contexts(app.routes)
        if route.path_regex.match(path)
        for method in route.methods or ()
    }


def all_dependants(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for further in dependant.dependencies:
        yield from all_dependants(further)


def query_parameters(dependant: Dependant) -> frozenset[str]:
    """The names that an operation knows, those of all that it depends on too."""
    return frozenset(
        name
        for one in all_dependants(dependant)
        for field in one.query_params
        for name in _names(field.alias, field.field_info.annotation)
    )


def _names(alias: str, kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    return [alias]


def _is_strict(kind: Any) -> bool:
    kinds = [one for one in getattr(kind, "__args__", (kind,)) if one is not type(None)]
    return all(isinstance(one, type) and issubclass(one, RequestModel) for one in kinds)


def _is_bounded(said: FieldInfo) -> bool:
    """Whether the instants that a parameter takes lie where they can be computed with."""
    kind: Any = Annotated[said.annotation, said]
    schemas: list[Any] = [TypeAdapter(kind).core_schema]
    while schemas:
        schema = schemas.pop()
        if isinstance(schema, dict):
            if schema.get("type") == "datetime" and "ge" not in schema:
                return False
            schemas += schema.values()
        elif isinstance(schema, list):
            schemas += schema
    return True


def _only(known: frozenset[str]) -> Callable[[Request], Coroutine[Any, Any, None]]:
    async def only_known_parameters(request: Request) -> None:
        if "\0" in request.scope["path"]:
            raise _refused("path", "The path holds a character that cannot be stored.")
        if not request.scope["query_string"]:
            return
        seen: set[str] = set()
        for name, value in request.query_params.multi_items():
            if name not in known:
                knows = f"it knows {', '.join(sorted(known))}" if known else "it knows none"
                raise _refused(f"query.{name}", f"This operation has no such parameter; {knows}.")
            if name in seen:
                raise _refused(f"query.{name}", "Give this parameter once.")
            if "\0" in value:
                raise _refused(f"query.{name}", UNSTORABLE)
            seen.add(name)

    return only_known_parameters


def _refused(field: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "extra_forbidden", "loc": (field,), "msg": message}])
