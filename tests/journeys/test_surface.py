"""Who may ask for what, tried for every operation of the OpenAPI document, through the gateway.

The owner is the customer of the demo's story, with one of everything that has an id. Another
account's owner, a key without a scope and nobody at all then ask for the same.
"""

import re
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from shared.web.problems import Problem
from tests.declared import undeclared
from tests.journeys.conftest import MADE_UP, SHARED_IDS, Surface
from tests.journeys.operations import Operation, document, operations

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

#: What anybody may ask for. Everything else needs a token, so a new line here is a decision.
PUBLIC = {
    "GET /.well-known/jwks.json",
    # The offer, as a price page shows it.
    *(f"GET /v1/{kind}" for kind in ("plans", "prices", "products", "addons", "bundles")),
    *(f"GET /v1/{kind}" for kind in ("features", "meters")),
    "GET /v1/plans/{plan_id}",
    "GET /v1/prices/{price_id}",
    "GET /v1/products/{product_id}",
    "GET /v1/addons/{addon_id}",
    "GET /v1/bundles/{bundle_id}",
    "GET /v1/features/{feature_id}",
    "GET /v1/meters/{meter_id}",
    # Signing in: the body holds the secret.
    *(f"POST /v1/auth/{verb}" for verb in ("register", "login", "refresh", "logout", "token")),
    "POST /v1/auth/verify-email",
    "POST /v1/auth/verify-email/resend",
    "POST /v1/auth/password/forgot",
    "POST /v1/auth/password/reset",
    "POST /v1/auth/invitations/accept",
    # Signed otherwise: by the address itself, and by the provider.
    "GET /v1/attachments/{attachment_id}/content",
    "PUT /v1/attachments/{attachment_id}/content",
    "POST /v1/webhooks/{name}",
}


#: Not even staff ask for these: they are refused before their question is looked at.
FOR_KEYS_OF_THE_OPERATOR = {"POST /v1/customer-sessions"}


def assert_problem(operation: Operation, answer: httpx.Response) -> Problem:
    """An error as it is promised: of the right kind, with a code that has its place in the docs."""
    told = (str(operation), answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json", told
    problem = Problem.model_validate(answer.json())
    assert problem.status == answer.status_code, told
    assert problem.code in codes(), told
    assert problem.request_id == answer.headers["x-request-id"], told
    assert undeclared(operation.said, answer) is None, told
    return problem


def codes() -> set[str]:
    text = Path("docs/errors.md").read_text()
    return set(re.findall(r"^## (\S+)$", text, re.MULTILINE)) | set(
        re.findall(r"`([a-z-]+)`", text)
    )


def test_what_needs_no_token_is_what_was_decided() -> None:
    assert {str(operation) for operation in operations() if not operation.needs_token} == PUBLIC


def test_without_a_token_nothing_else_is_answered(surface: Surface) -> None:
    for operation in operations():
        if operation.needs_token:
            answer = surface.ask(operation, None)
            assert answer.status_code == 401, (str(operation), answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert_problem(operation, answer)


def test_a_key_without_a_scope_may_do_nothing(surface: Surface) -> None:
    allowed = []
    for operation in operations():
        if operation.needs_token:
            answer = surface.ask(operation, surface.key_without_scopes)
            if answer.status_code != 403:
                allowed.append(f"{operation}: {answer.status_code} {answer.text[:120]}")
            else:
                assert_problem(operation, answer)

    assert not allowed, "\n".join(allowed)


def test_what_belongs_to_another_account_is_not_found(surface: Surface) -> None:
    """Where the owner may not do it either, it is refused to both."""
    seen = []
    for operation in operations():
        if not operation.needs_token or not set(operation.ids) - SHARED_IDS:
            continue
        answer = surface.ask(operation, surface.other)
        problem = assert_problem(operation, answer) if answer.is_error else None
        staff_only = (
            answer.status_code == 403
            and surface.ask(operation, surface.owner).status_code == answer.status_code
        )
        if not staff_only and answer.status_code != 404:
            seen.append(f"{operation}: {answer.status_code} {problem and problem.code}")

    assert not seen


def test_what_the_owner_reads_is_there(surface: Surface) -> None:
    """Otherwise the ids above would prove nothing."""
    for operation in operations():
        if operation.method == "GET" and set(operation.ids) - SHARED_IDS and operation.needs_token:
            answer = surface.ask(operation, surface.owner)
            if answer.status_code == 403:
                answer = surface.ask(operation, surface.staff)
            there = not set(MADE_UP) & set(operation.ids)
            # The operator's keys are others than those of accounts, under the same name.
            there = there and not operation.path.startswith("/v1/ops/auth/keys")
            assert answer.status_code == (200 if there else 404), (str(operation), answer.text)


def test_no_list_and_no_export_shows_another_account(surface: Surface) -> None:
    owned = {surface.ids[name] for name in surface.ids if name not in {*SHARED_IDS, "bundle_id"}}
    owned -= {surface.ids["entity_id"]}
    for operation in operations():
        if operation.method == "GET" and not operation.ids:
            shown = surface.ask(operation, surface.other)
            leaked = [one for one in owned if one in shown.text]
            assert not leaked, (str(operation), leaked)


def test_nobody_but_staff_acts_for_another_account(surface: Surface) -> None:
    header = {"Perennial-Account": surface.ids["account_id"]}
    for operation in operations():
        if operation.needs_token:
            answer = surface.ask(operation, surface.other, **header)
            assert answer.status_code in {403, 404}, (str(operation), answer.text)


def test_what_another_account_owns_cannot_be_named_in_a_body(surface: Surface) -> None:
    owned = {name for name in surface.ids if name not in {*SHARED_IDS, "bundle_id"}}
    tried = 0
    for operation in operations():
        body = operation.body(surface.ids)
        if operation.needs_token and not operation.ids and body and owned & set(body):
            answer = surface.ask(operation, surface.other)
            assert answer.status_code in {403, 404, 409, 422}, (str(operation), answer.text)
            tried += 1
    assert tried > 3


def test_every_body_refuses_a_field_that_it_does_not_know(surface: Surface) -> None:
    for operation in operations():
        if operation.schema is None or str(operation) in FOR_KEYS_OF_THE_OPERATOR:
            continue
        body = operation.body(surface.ids)
        answer = surface.http.request(
            operation.method,
            operation.url(surface.ids),
            params=operation.query(surface.ids),
            json={**body, "is_admin": True},
            headers={
                "Authorization": f"Bearer {surface.staff}",
                "Idempotency-Key": str(uuid4()),
            },
        )
        assert answer.status_code == 422, (str(operation), answer.text)
        problem = assert_problem(operation, answer)
        assert "is_admin" in [fault.field for fault in problem.errors or []], str(operation)


def test_every_operation_refuses_a_query_parameter_that_it_does_not_know(
    surface: Surface,
) -> None:
    for operation in operations():
        answer = surface.http.request(
            operation.method,
            operation.url(surface.ids),
            params={**operation.query(surface.ids), "is_admin": "1"},
            json=operation.body(surface.ids),
            headers={
                "Authorization": f"Bearer {surface.staff}",
                "Idempotency-Key": str(uuid4()),
            },
        )
        if str(operation) in FOR_KEYS_OF_THE_OPERATOR:
            assert answer.status_code == 403, answer.text
            continue
        assert answer.status_code == 422, (str(operation), answer.text)
        problem = assert_problem(operation, answer)
        assert [fault.field for fault in problem.errors or []] == ["query.is_admin"], str(operation)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 5000])
def test_a_body_that_cannot_be_read_is_refused(surface: Surface, content: bytes) -> None:
    for operation in operations():
        if operation.schema is None or str(operation) in FOR_KEYS_OF_THE_OPERATOR:
            continue
        if not content and not operation.said["requestBody"].get("required"):
            continue
        answer = surface.http.request(
            operation.method,
            operation.url(surface.ids),
            content=content,
            headers={
                "Authorization": f"Bearer {surface.staff}",
                "Content-Type": "application/json",
                "Idempotency-Key": str(uuid4()),
            },
        )
        assert answer.status_code in {400, 422}, (str(operation), content[:9], answer.text)
        assert_problem(operation, answer)


def test_every_answer_that_is_documented_as_an_error_is_a_problem() -> None:
    for operation in operations():
        for status, response in operation.said["responses"].items():
            # Nothing stands for the rest: tests compare what they get with what is declared.
            assert status != "default", str(operation)
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], str(operation)


def test_no_schema_is_left_undocumented() -> None:
    text = str(document())
    for name in document()["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in text, name


def test_answers_never_name_a_file_or_a_line_of_ours(surface: Surface) -> None:
    answer = surface.http.get("/v1/invoices", params={"cursor": "\x00", "limit": "9" * 400})

    assert answer.status_code in {401, 422}
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
