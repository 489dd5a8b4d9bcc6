"""The OpenAPI document: what the edge does for every operation is written into each of them."""

from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from fastapi import FastAPI, Response
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

from shared.web.edge import caller, keyed_command
from shared.web.key_rules import KeyRule
from shared.web.problems import MEDIA_TYPE, Problem, status_of
from shared.web.refusals import refusals_of
from shared.web.routing import all_dependants

BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An access token, or an API key with the scope that the operation needs.",
}
PROBLEM = {"$ref": "#/components/schemas/Problem"}
#: How FastAPI describes its own answer to a bad request, which is never given here.
FOREIGN = ("HTTPValidationError", "ValidationError")
FIRST_ERROR = 400


def describe(app: FastAPI) -> None:
    """Have the application serve the completed document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**problem.pop("$defs"), Problem.__name__: problem}
    for name in FOREIGN:
        schemas.pop(name, None)
    components["schemas"] = dict(sorted(schemas.items()))
    components["securitySchemes"] = {"bearer": BEARER}
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                operation = document["paths"][route.path_format][method.lower()]
                _complete(operation, method, route)
                _say_what_keys_may(operation, app.state.key_rules[id(route.original_route)])
    return document


def _say_what_keys_may(operation: dict[str, Any], rule: KeyRule | None) -> None:
    """`x-key-scopes`: one of them is enough, and any key will do where there are none."""
    if rule is None:  # nobody's token is looked at
        return
    if rule.reason is not None:
        operation["x-not-for-keys"] = rule.reason
    else:
        operation["x-key-scopes"] = list(rule.scopes or ())


def _complete(operation: dict[str, Any], method: str, route: RouteContext) -> None:
    asked = list(all_dependants(route.dependant))
    if any(one.call is caller for one in asked):
        operation["security"] = [{"bearer": []}]
    elif any(field.alias == "authorization" for one in asked for field in one.header_params):
        operation["security"] = [{}, {"bearer": []}]
    if any(one.call is keyed_command for one in asked):
        for parameter in operation["parameters"]:
            if parameter["name"] == "Idempotency-Key":
                parameter |= {"required": True, "schema": _without_null(parameter["schema"])}
    responses = operation["responses"]
    for status, code in _refusals(method, asked):
        said = responses.get(status, {}).get("description", "")
        codes = [one for one in said.split(", ") if one not in {"", "Validation Error"}]
        responses[status] = {"description": ", ".join(dict.fromkeys([*codes, code]))}
    if method == "GET" and get_type_hints(route.endpoint).get("return") is Response:
        # An answer that the edge makes has an ETag where what it shows has a version.
        responses["304"] = {"description": "The caller has this version."}
    for status, response in responses.items():
        if int(status) >= FIRST_ERROR:
            response["content"] = {MEDIA_TYPE: {"schema": PROBLEM}}
    operation["responses"] = dict(sorted(responses.items()))


def _refusals(method: str, asked: Sequence[Dependant]) -> Iterator[tuple[str, str]]:
    """Status and code of what is refused without the endpoint's doing, and of faults."""
    for one in asked:
        for error in refusals_of(one.call):
            yield str(status_of(error)), error.code
    yield "422", "validation-failed"
    yield "422", "value-refused"
    if method != "GET":
        yield "409", "changed-meanwhile"
        yield "422", "unknown-reference"
    yield "500", "internal-error"
    yield "503", "unavailable"


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return {**{key: said for key, said in schema.items() if key != "anyOf"}, **kinds[0]}
