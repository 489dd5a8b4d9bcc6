"""Every operation of every service says what keys may do; nobody can forget one."""

import importlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from shared.security import OPERATOR_SCOPES, Caller, KeyScope
from shared.web.key_rules import (
    ANY_KEY,
    KeyRule,
    NotForKeys,
    ScopeMissing,
    asks_who,
    install_key_rules,
    operations_of,
    rule_of,
)
from tests.conftest import SERVICES, service_named


@pytest.fixture(scope="module")
def apps() -> dict[str, tuple[Any, FastAPI]]:
    return {name: application(name) for name in SERVICES}


def application(name: str) -> tuple[Any, FastAPI]:
    """The service and its application, connected to nothing."""
    service = service_named(name)
    runtime = importlib.import_module("shared.runtime").Runtime(
        service.settings(
            database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none"),
            broker_url=SecretStr("amqp://nobody@127.0.0.1:1/"),
            redis_url=SecretStr("redis://127.0.0.1:1/0"),
        ),
        database=None,
        redis=None,
    )
    return service, service.create_api(runtime)


def rules(apps: dict[str, tuple[Any, FastAPI]]) -> Iterator[tuple[str, KeyRule]]:
    for service, app in apps.values():
        for operation, (_, dependant) in operations_of(app):
            if asks_who(dependant):
                rule = rule_of(operation, service.key_rules())
                assert rule is not None, operation
                yield operation, rule


def test_every_operation_has_a_scope_or_a_reason(apps: dict[str, tuple[Any, FastAPI]]) -> None:
    seen = dict(rules(apps))

    assert len(seen) > 200
    for operation, rule in seen.items():
        said = (rule.scopes, rule.reason)
        if rule is ANY_KEY:
            assert operation.startswith("GET /v1/"), operation  # what is on sale
            continue
        assert said.count(None) == 1, operation
        assert rule.scopes != (), operation


def test_every_scope_is_good_for_something(apps: dict[str, tuple[Any, FastAPI]]) -> None:
    used = {scope for _, rule in rules(apps) for scope in rule.scopes or ()}

    assert used == set(KeyScope)
    assert used > OPERATOR_SCOPES


@pytest.mark.parametrize(
    "path", ["/v1/me/", "/v1/admin", "/v1/ops", "/v1/accounts/{account_id}/api-keys"]
)
def test_keys_do_nothing_that_people_are_asked_for_by_name(
    apps: dict[str, tuple[Any, FastAPI]], path: str
) -> None:
    writes = [
        (operation, rule)
        for operation, rule in rules(apps)
        if operation.startswith((f"POST {path}", f"PATCH {path}"))
    ]

    assert writes
    assert all(rule.reason for _, rule in writes)


def test_the_documents_say_what_keys_may(apps: dict[str, tuple[Any, FastAPI]]) -> None:
    for service, app in apps.values():
        for path, item in app.openapi()["paths"].items():
            for method, operation in item.items():
                rule = rule_of(f"{method.upper()} {path}", service.key_rules())
                if rule is not None:
                    said = operation.get("x-key-scopes"), operation.get("x-not-for-keys")
                    expected = None if rule.reason else list(rule.scopes or ())
                    assert said == (expected, rule.reason), path


def test_an_application_with_an_unruled_operation_does_not_start(
    apps: dict[str, tuple[Any, FastAPI]],
) -> None:
    service, app = apps["payments"]
    table = dict(service.key_rules())
    forgotten_one = "POST /v1/payments/{payment_id}/refunds"
    forgotten = table.pop(forgotten_one)

    with pytest.raises(RuntimeError, match=re.escape(forgotten_one)):
        install_key_rules(app, table)
    with pytest.raises(RuntimeError, match="POST /v1/refunds"):
        install_key_rules(app, {**service.key_rules(), "POST /v1/refunds": forgotten})


def test_people_are_not_narrowed_and_keys_are() -> None:
    person = Caller(subject="p", account_id=None)
    key = Caller(subject="k", account_id=None, scopes=frozenset({"invoices:read"}))
    rule = KeyRule(scopes=(KeyScope.INVOICES_WRITE,))

    rule.check(person)
    KeyRule(reason="it is").check(person)
    ANY_KEY.check(key)
    KeyRule(scopes=(KeyScope.INVOICES_WRITE, KeyScope.INVOICES_READ)).check(key)
    with pytest.raises(ScopeMissing):
        rule.check(key)
    with pytest.raises(NotForKeys):
        KeyRule(reason="it is about people").check(key)
