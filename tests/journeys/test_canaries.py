"""What is secret or personal goes where it belongs and nowhere else, whichever operation gets it.

Canaries are sent through every operation; then logs, events, dead letters and metrics are read.
"""

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from infra.environment import SERVICES
from tests.journeys.conftest import Surface
from tests.journeys.operations import operations
from tests.whole_system import WholeSystem

pytestmark = pytest.mark.timeout(300)

MARK = uuid4().hex[:10]
CARD = "4242424242424242"
PASSWORD = f"rusty violin {MARK} cloud"
TOKEN = f"canary-token-{MARK}"
EMAIL = f"canary-{MARK}@example.com"
NAME = f"Canary Birdsong {MARK}"

#: Nobody may keep these, not even in the service's own tables.
SECRETS = (CARD, PASSWORD, TOKEN)
#: These are kept by who needs them, and told to nobody else.
PERSONAL = (EMAIL, NAME)
#: By the name of a field: what is put into it.
CANARIES = {
    "password": PASSWORD,
    "current_password": PASSWORD,
    "refresh_token": TOKEN,
    "token": TOKEN,
    "email": EMAIL,
    "full_name": NAME,
    "account_name": NAME,
}
#: Tables that leave the service: what is published, waits, or was given up on.
LEAVING = ("outbox", "early_events", "dead_letters")


def filled(value: Any) -> Any:
    """The body with a canary in each field that has one."""
    if isinstance(value, dict):
        return {name: CANARIES.get(name) or filled(inner) for name, inner in value.items()}
    return value


@pytest.fixture(scope="module")
def answers(surface: Surface) -> list[str]:
    """What refusals said, after every operation was asked with canaries by everybody."""
    said = []
    for operation in operations():
        body = operation.body(surface.ids)
        properties = operation.fields
        canaries = {name: CANARIES[name] for name in properties if name in CANARIES}
        bodies: list[Any] = (
            [None] if body is None else [{**body, "card_number": CARD, "cvc": TOKEN}]
        )
        if canaries:
            bodies += [{**filled(body), **canaries}, {**filled(body), **canaries, "token": CARD}]
        for sent in bodies:
            for token, more in (
                (surface.staff, {}),
                (surface.other, {}),
                (TOKEN, {}),
                (surface.staff, {"access_token": TOKEN}),  # it is not known, and named alone
            ):
                if body is None and operation.method != "GET":
                    continue
                answer = surface.http.request(
                    operation.method,
                    operation.url(surface.ids),
                    params={**operation.query(surface.ids), **more},
                    json=sent,
                    headers={"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())},
                )
                if answer.is_error:
                    said.append(f"{operation}: {answer.text}")
    return said


def test_refusals_do_not_say_it_back(answers: list[str]) -> None:
    assert len(answers) > 100
    for canary in (*SECRETS, *PERSONAL):
        assert not [said for said in answers if canary in said]


def test_no_log_has_it(whole_system: WholeSystem, answers: list[str]) -> None:
    assert answers
    found = [
        (path.name, canary, text[max(0, text.index(canary) - 200) :][:300])
        for path in whole_system.logs.glob("*.log")
        for text in [path.read_text(errors="replace")]
        for canary in (*SECRETS, *PERSONAL)
        if canary in text
    ]

    assert not found


def test_no_metric_has_it(whole_system: WholeSystem, answers: list[str]) -> None:
    assert answers
    plan = whole_system.system.plan
    for worker in plan.workers:
        port = plan.health_port(worker.name)
        metrics = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert "# HELP" in metrics
        for canary in (*SECRETS, *PERSONAL):
            assert canary not in metrics, worker.name


def test_no_table_keeps_secrets_and_no_event_tells_of_persons(
    whole_system: WholeSystem, answers: list[str]
) -> None:
    assert answers

    async def look() -> tuple[list[str], int]:
        connection = await asyncpg.connect(whole_system.system.plan.database_url)
        found, rows = [], 0
        try:
            tables = await connection.fetch(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY($1)", SERVICES
            )
            for schema, table in tables:
                for canary in (*SECRETS, *PERSONAL):
                    if canary in PERSONAL and table not in LEAVING:
                        continue
                    # What is binary is shown as hexadecimal digits.
                    hit = await connection.fetchval(
                        f'SELECT count(*) FROM "{schema}"."{table}" AS r'  # noqa: S608
                        " WHERE position($1 IN r::text) > 0 OR position($2 IN r::text) > 0",
                        canary,
                        canary.encode().hex(),
                    )
                    found += [f"{schema}.{table}: {canary}"] * bool(hit)
            rows = await connection.fetchval(
                "SELECT count(*) FROM auth.registrations WHERE position($1 IN email) > 0", EMAIL
            )
        finally:
            await connection.close()
        return found, int(rows)

    found, kept = asyncio.run(look())

    assert not found
    assert kept  # the canary sang: somebody signed up with it
