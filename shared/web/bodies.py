"""What comes in: JSON that can be kept, strict bodies, and instants that can be computed with."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Annotated, Any

from fastapi import Request
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

#: Instants and dates from outside lie between these: earlier or later ones are mistakes, and at
#: the ends of the calendar no time zone and no period can be computed any more.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2999, 12, 31)

#: What no field of ours holds, and no database takes.
UNSTORABLE = "The text holds a character that cannot be stored: NUL, or half of a pair."


def _written(value: Any) -> Any:
    """Seconds since 1970 are a number of something; only a text says what it is."""
    if isinstance(value, int | float) or (isinstance(value, str) and "-" not in value[1:]):
        raise PydanticCustomError(
            "instant_not_written", "Write it as in RFC 3339, such as 2030-01-31T09:00:00Z"
        )
    return value


#: An instant with an offset, for query parameters; bodies have it of `RequestModel`.
Instant = Annotated[AwareDatetime, Field(ge=EARLIEST, lt=LATEST), BeforeValidator(_written)]


#: Of a schema, what describes no input.
_NO_INPUT = {"default", "metadata", "serialization", "config", "cls", "expected", "computed_fields"}


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: part if key in _NO_INPUT else _strict(part) for key, part in schema.items()}
    match made.get("type"):
        case "int" | "float" | "bool":
            made["strict"] = True
        case "datetime" if "ge" not in made:
            made |= {"tz_constraint": "aware", "ge": EARLIEST, "lt": LATEST}
            return core_schema.no_info_before_validator_function(_written, made)
        case "date" if "ge" not in made:
            made |= {"ge": FIRST_DAY, "le": LAST_DAY}
            return core_schema.no_info_before_validator_function(_written, made)
    return made


class RequestModel(BaseModel):
    """A request body: what it does not know is refused, and so is what only looks like it.

    Whole numbers are numbers, not `"2"`, `2.0` or `true`; truth is `true` or `false`; an instant
    has an offset and lies between 1970 and 3000.
    """

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        strict: CoreSchema = _strict(handler(source))
        return strict


class Incoming(Request):
    """A request whose JSON holds only text that can be stored and sent on.

    What cannot be read is told by `fault`, once everything else has had its say: who may not ask
    learns nothing of what is wrong with a question.
    """

    #: How the body cannot be read, as pydantic tells its errors.
    fault: dict[str, Any] | None = None

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            self.fault, self._json = _read(body)
        return self._json


def _read(body: bytes) -> tuple[dict[str, Any] | None, Any]:
    """What is wrong with the body, and what it says; itself, which no model takes, if unread."""
    try:
        said = json.loads(body.decode(), parse_constant=_no_number)
    except json.JSONDecodeError as error:
        return _fault((error.pos,), f"This is not JSON: {error.msg}."), body
    except UnicodeDecodeError as error:
        return _fault((error.start,), "This is not UTF-8, as JSON has to be."), body
    except ValueError as error:
        return _fault((), f"This is not JSON that we read: {error}."), body
    except RecursionError:
        return _fault((), "This is nested too deeply."), body
    # UTF-8 has no halves of pairs, and JSON no bare NUL: what is left has to be escaped.
    if b"\\u" in body:
        where = next(_unstorable(said, ()), None)
        if where is not None:
            return _fault(where, UNSTORABLE), body
    return None, said


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _fault(where: tuple[int | str, ...], message: str) -> dict[str, Any]:
    return {"type": "unreadable", "loc": ("body", *where), "msg": message, "input": {}}


def is_storable(text: str) -> bool:
    """Whether a database can keep it and an answer can hold it."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _unstorable(value: Any, path: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    """Where there is text that cannot be stored; of a bad name, the object that has it."""
    if isinstance(value, str):
        if not is_storable(value):
            yield path
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if is_storable(name):
                yield from _unstorable(part, (*path, name))
            else:
                yield path
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _unstorable(part, (*path, index))
