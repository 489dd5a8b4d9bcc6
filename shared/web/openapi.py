"""The OpenAPI document: what the edge does for every operation is written into each of them."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts

from shared.web.edge import caller, keyed_command
from shared.web.problems import MEDIA_TYPE, Problem

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
                _complete(document["paths"][route.path_format][method.lower()], route.dependant)
    return document


def _complete(operation: dict[str, Any], dependant: Dependant) -> None:
    asked = list(_all(dependant))
    refusals = {"422": "validation-failed"} if "422" in operation["responses"] else {}
    if any(one.call is caller for one in asked):
        operation["security"] = [{"bearer": []}]
        refusals |= {"401": "unauthenticated", "403": "forbidden"}
    elif any(field.alias == "authorization" for one in asked for field in one.header_params):
        operation["security"] = [{}, {"bearer": []}]
        refusals |= {"401": "unauthenticated"}
    if any(one.call is keyed_command for one in asked):
        refusals |= {"400": "idempotency-key-missing"}
        for parameter in operation["parameters"]:
            if parameter["name"] == "Idempotency-Key":
                parameter |= {"required": True, "schema": _without_null(parameter["schema"])}
    responses = operation["responses"]
    for status, code in refusals.items():
        said = responses.get(status, {}).get("description", "")
        codes = [one for one in said.split(", ") if one not in {"", "Validation Error"}]
        responses[status] = {"description": ", ".join(dict.fromkeys([*codes, code]))}
    responses["default"] = {"description": "Any other refusal; docs/errors.md lists the codes."}
    for status, response in responses.items():
        if status == "default" or int(status) >= FIRST_ERROR:
            response["content"] = {MEDIA_TYPE: {"schema": PROBLEM}}
    operation["responses"] = dict(sorted(responses.items()))


def _all(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for further in dependant.dependencies:
        yield from _all(further)


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return {**{key: said for key, said in schema.items() if key != "anyOf"}, **kinds[0]}
