"""The schema's metadata, and the columns that its tables have in common."""

from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Column, DateTime, Dialect, Integer, Text, TypeDecorator, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry

from shared.db import service_metadata, stored

metadata = service_metadata("subscriptions")
mapping = registry(metadata=metadata)


class Structured(TypeDecorator[Any]):
    """A value object kept as JSON, read and written as the type it is.

    `usual` is kept as NULL, and NULL read as it: rows that say nothing follow it when it changes.
    """

    impl = JSONB(none_as_null=True)
    cache_ok = True

    def __init__(self, kind: Any, usual: Any = None) -> None:
        super().__init__()
        self.kind = kind
        self.usual = usual
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        del dialect
        if value is None or value == self.usual:
            return None
        return self._adapter.dump_python(value, mode="json")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        del dialect
        return self.usual if value is None else self._adapter.validate_python(value)


def moment(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def choice(name: str, kind: type[StrEnum], *, nullable: bool = False) -> Column[Any]:
    return Column(name, stored(kind), nullable=nullable)


def json_(
    name: str, kind: Any, *, nullable: bool = False, usual: Any = None, server_default: Any = None
) -> Column[Any]:
    nullable = nullable or usual is not None
    return Column(name, Structured(kind, usual), nullable=nullable, server_default=server_default)


def text_(name: str, *, unique: bool = False) -> Column[Any]:
    return Column(name, Text, nullable=False, unique=unique)


def id_() -> Column[Any]:
    return Column("id", Uuid, primary_key=True)


def version() -> Column[Any]:
    return Column("version", Integer, nullable=False)


def revision() -> Column[Any]:
    """How often it was edited, from 1: what `If-Match` names where no event tells of an edit."""
    return Column("revision", Integer, nullable=False, server_default="1")
