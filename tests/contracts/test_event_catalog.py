"""A published event never loses or retypes a field, and every handler hears real events."""

import copy
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from infra.docs.pages import PROMISES
from infra.environment import SERVICES
from shared.messaging.docs import broken, promises, published

PROMISED: dict[str, Any] = json.loads(Path(PROMISES).read_text())


def test_every_promise_is_kept() -> None:
    assert broken(PROMISED, promises()) == []


def test_every_event_is_promised() -> None:
    assert promises() == PROMISED, "run `make docs`, and have a look at what changed"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda made: made.pop("invoice.paid"), "invoice.paid is gone"),
        (
            lambda made: made["invoice.paid"]["fields"].pop("invoice_id"),
            "invoice.paid loses invoice_id",
        ),
        (
            lambda made: made["invoice.paid"]["fields"]["invoice_id"].update(type="integer"),
            "invoice.paid retypes invoice_id",
        ),
        (
            lambda made: made["subscription.started"]["fields"]["charges[]"].update(type="string"),
            "subscription.started retypes charges[]",
        ),
        (
            lambda made: made["subscription.started"]["fields"]["status"].update(values=["new"]),
            "subscription.started retypes status",
        ),
        (
            lambda made: made["invoice.paid"]["fields"].update(
                mood={"type": "string", "required": True}
            ),
            "invoice.paid asks for mood, which events of before do not have",
        ),
    ],
)
def test_a_broken_promise_is_found(change: Any, fault: str) -> None:
    made = copy.deepcopy(PROMISED)
    change(made)

    assert broken(PROMISED, made) == [fault]


def test_a_new_event_and_an_optional_field_break_nothing() -> None:
    made = copy.deepcopy(PROMISED)
    made["moon.landed"] = {"fields": {"moon_id": {"type": "string", "required": True}}}
    made["invoice.paid"]["fields"]["mood"] = {"type": "string", "required": False}

    assert broken(PROMISED, made) == []


@pytest.mark.parametrize("service", SERVICES)
def test_every_handler_hears_events_that_exist(service: str) -> None:
    consumers = importlib.import_module(f"services.{service}.main").service.consumers
    for handler in consumers.handlers.values():
        assert {event.name for event in handler.events} <= set(published())
        if handler.ordered:
            assert any(name.startswith(f"{handler.ordered}.") for name in published())


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=name) for name, kind in published().items()]
)
def test_names_are_aggregate_and_past_participle(kind: Any) -> None:
    aggregate, _, participle = kind.name.partition(".")

    assert aggregate.islower()
    assert participle.replace("_", "").islower()
    assert kind.subject_field in kind.model_fields
    assert kind.__doc__
