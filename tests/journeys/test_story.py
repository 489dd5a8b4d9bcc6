"""The main job, end to end: one customer from sign-up to cancellation, through the gateway."""

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from infra.demo.__main__ import what_next
from infra.demo.story import Story
from tests.journeys.conftest import Listener
from tests.whole_system import WholeSystem, a_key, log_lines

pytestmark = pytest.mark.timeout(300)

PAID = [
    "invoice.finalized",
    "payment.created",
    "payment.succeeded",
    "invoice.paid",
]
EXPECTED = [
    ["subscription.started", *PAID, "subscription.activated"],
    ["subscription.renewed", *PAID],
    [
        "subscription.renewed",
        "invoice.finalized",
        "payment.created",
        "payment.failed",
        "dunning.started",
        "subscription.marked_past_due",
        "payment.succeeded",
        "dunning.recovered",
        "invoice.paid",
        "subscription.activated",
    ],
    ["subscription.renewed", *PAID],
    ["subscription.changed", *PAID],
    ["credit_note.issued", "refund.created", "refund.succeeded"],
    ["subscription.cancellation_scheduled", "subscription.canceled"],
]


def test_the_story_causes_exactly_these_events(told: tuple[Story, Listener]) -> None:
    _, listener = told

    assert [sorted(step) for step in listener.events if step] == [sorted(step) for step in EXPECTED]


def test_amounts_are_those_of_the_plan(told: tuple[Story, Listener]) -> None:
    _, listener = told

    # Four times 29.00 and 19 %, then 59.00 for the other half of a month: 14.50 back, 29.50 more.
    assert listener.facts.count("  total 34.51 EUR") == 4
    assert "    Unused time on Team, 2026-04-30 to 2026-05-15: -14.50 EUR".strip() in [
        fact.strip() for fact in listener.facts
    ]
    assert "5 paid invoices = payments = 155.89 EUR" in listener.facts
    assert "1 credit note = refunds = 10.00 EUR" in listener.facts


def test_one_request_can_be_followed_through_all_services(
    whole_system: WholeSystem, told: tuple[Story, Listener]
) -> None:
    story, _ = told
    with httpx.Client(base_url=whole_system.base_url) as http:
        login = http.post(
            "/v1/auth/login",
            json={"email": whole_system.staff_email, "password": whole_system.staff_password},
        )
        timeline = http.get(
            f"/v1/subscriptions/{story.subscription_id}/timeline",
            params={"limit": 200},
            headers={"Authorization": f"Bearer {login.json()['access_token']}"},
        ).json()["data"]

    by_id = {event["id"]: event for event in timeline}
    started = next(event for event in timeline if event["name"] == "subscription.started")
    activated = next(event for event in timeline if event["name"] == "subscription.activated")
    chain = [activated["name"]]
    cause = activated["caused_by"]
    while cause in by_id:
        chain.append(by_id[cause]["name"])
        cause = by_id[cause]["caused_by"]

    assert activated["request_id"] == started["request_id"]
    assert chain[:3] == ["subscription.activated", "invoice.paid", "payment.succeeded"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_demo_says_to_try_next_works_when_it_is_pasted(
    whole_system: WholeSystem, told: tuple[Story, Listener], tmp_path: Path
) -> None:
    story, _ = told
    text = what_next(story, whole_system.staff_password)
    commands = [line for line in text.splitlines() if line.startswith("  ")]
    script = "\n".join(line for line in commands if not line.startswith("  make "))

    pasted = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("curl -s", "curl -sS --fail")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert pasted.returncode == 0, pasted.stderr
    for part in ('"ready"', "INV-2026-000005", '"subscription.canceled"', '"stuck"'):
        assert part in pasted.stdout
    assert (tmp_path / "invoice.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_first_steps_work_as_they_are_written(whole_system: WholeSystem) -> None:
    block = re.search(r"```sh\n(.*?)```", Path("docs/first-steps.md").read_text(), re.DOTALL)
    assert block
    script = (
        block[1]
        .replace("http://localhost:8080", whole_system.base_url)
        .replace("$(make -s key NAME=backend SCOPES=all)", a_key(whole_system))
        .replace("curl -sS", "curl -sS --fail")
    )

    pasted = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=False
    )

    assert pasted.returncode == 0, pasted.stderr
    assert "subscription.activated" in pasted.stdout
    assert '"status":"paid"' in pasted.stdout


def test_one_health_page_shows_all_four(whole_system: WholeSystem) -> None:
    health = httpx.get(f"{whole_system.base_url}/health")

    assert health.status_code == 200
    for service in ("auth", "subscriptions", "invoicing", "payments"):
        assert service in health.text


def test_nothing_secret_or_personal_is_in_the_logs(
    whole_system: WholeSystem, told: tuple[Story, Listener]
) -> None:
    story, _ = told
    canaries = (
        "demo passphrase",
        f"ada-{story.run}@",
        "Ada Byron",
        "Unter den Linden",
        "tok_ok",
        story.key,
    )

    text = "".join(path.read_text(errors="replace") for path in whole_system.logs.glob("*.log"))

    assert not [canary for canary in canaries if canary in text]


def test_no_process_logged_an_error(
    whole_system: WholeSystem, told: tuple[Story, Listener]
) -> None:
    assert told
    errors = [line for line in log_lines(whole_system.logs) if line.get("level") == "error"]

    assert errors == []


def test_nothing_is_stuck_after_the_story(
    whole_system: WholeSystem, told: tuple[Story, Listener]
) -> None:
    assert told
    with httpx.Client(base_url=whole_system.base_url) as http:
        login = http.post(
            "/v1/auth/login",
            json={"email": whole_system.staff_email, "password": whole_system.staff_password},
        )
        stuck = http.get(
            "/v1/ops/stuck", headers={"Authorization": f"Bearer {login.json()['access_token']}"}
        )

    assert stuck.status_code == 200
    found = {part["service"]: part["stuck"] for part in stuck.json()["data"]}
    assert set(found) == {"auth", "subscriptions", "invoicing", "payments"}
    assert [part["data"] for part in found.values()] == [[], [], [], []]
