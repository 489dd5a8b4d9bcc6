"""Every operation of the OpenAPI document as a test asks for it: with ids, and a body that is read.

A new operation, parameter or pattern that this cannot fill in fails by name.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

METHODS = {"get", "post", "put", "patch", "delete"}

#: What fits each pattern that a request body has.
FITTING = (
    "projects:read",
    "123456",
    "application/pdf",
    "a" * 64,
    "DE",
    "de",
    "DE89370400440532013000",
    "COBADEFF",
    "#112233",
    "1.5",
    "tok_ok",
    "words",
)
#: What fits a field whose schema says less than its name.
NAMED = {"currency": "EUR", "base": "EUR", "quote": "USD", "email": "somebody@example.com"}


@dataclass(frozen=True)
class Operation:
    """One method of one path, as it is documented."""

    method: str
    path: str
    said: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def ids(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    @property
    def needs_token(self) -> bool:
        """Whether nobody is answered without one."""
        security = self.said.get("security", [{}])
        return {} not in security

    @property
    def schema(self) -> dict[str, Any] | None:
        """Of its JSON body."""
        content = self.said.get("requestBody", {}).get("content", {})
        found: dict[str, Any] | None = content.get("application/json", {}).get("schema")
        return found

    @property
    def fields(self) -> set[str]:
        """Of its JSON body."""
        return set(resolved(self.schema or {}).get("properties", ()))

    def url(self, ids: Mapping[str, str]) -> str:
        return re.sub(r"{(\w+)}", lambda found: ids[found[1]], self.path)

    def query(self, ids: Mapping[str, str]) -> dict[str, Any]:
        """What has to be in the query, and every id that may be."""
        given = {}
        for parameter in self.said.get("parameters", []):
            if parameter["in"] == "query" and (parameter["required"] or parameter["name"] in ids):
                known = ids.get(parameter["name"])
                given[parameter["name"]] = known or example(parameter["schema"])
        return given

    def body(self, ids: Mapping[str, str]) -> Any:
        """The least that is read, and every known id that may be in it."""
        return None if self.schema is None else example(self.schema, ids)


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("docs/openapi.json").read_text())
    return found


def operations() -> list[Operation]:
    return [
        Operation(method.upper(), path, said)
        for path, item in document()["paths"].items()
        for method, said in item.items()
        if method in METHODS
    ]


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def example(schema: Mapping[str, Any], ids: Mapping[str, str] | None = None) -> Any:
    """The smallest value that the schema takes."""
    schema = resolved(schema)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return example(schema[several][0], ids)
    return _of_type(schema, ids or {})


def _of_type(schema: Mapping[str, Any], ids: Mapping[str, str]) -> Any:
    match schema.get("type"):
        case "object" | None:
            return _object(schema, ids)
        case "array":
            return [example(schema["items"], ids)] * int(schema.get("minItems", 0))
        case "string":
            return _text(schema)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            # A document may say 1.0 where it means 1, which is no whole number to a strict reader.
            return int(max(schema.get("minimum", 1), schema.get("exclusiveMinimum", 0) + 1))


def _object(schema: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    made = {}
    for name, inner in schema.get("properties", {}).items():
        if name in ids:
            made[name] = ids[name]
        elif name in schema.get("required", ()):
            made[name] = NAMED.get(name) or example(inner, ids)
    return made


def _text(schema: Mapping[str, Any]) -> str:
    match schema.get("format"):
        case "uuid":
            return str(uuid4())
        case "date-time":
            return "2026-01-15T09:00:00Z"
        case "date":
            return "2026-01-15"
    if pattern := schema.get("pattern"):
        fitting = [text for text in FITTING if re.search(pattern, text)]
        assert fitting, f"add a text that fits {pattern}"
        return fitting[0]
    return "words that are long enough to be taken"[: schema.get("maxLength")]
