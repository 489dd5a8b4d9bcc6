"""Alerts fire when they should, name metrics that exist, and lead to a page that says more."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ALERTS = Path("infra/prometheus/alerts.yml")
CASES = Path(__file__).with_name("alerts_test.yml")
PROMTOOL = shutil.which("promtool")

#: What Prometheus makes by itself.
BUILT_IN = {"up"}


def alerts() -> list[tuple[str, str, str]]:
    """Name, expression and runbook of each."""
    rules = ALERTS.read_text().split("- alert: ")[1:]
    found = []
    for rule in rules:
        name = rule.split("\n", 1)[0]
        expression = re.search(r"expr: (.*?)\n +(?:for|labels):", rule, re.DOTALL)
        runbook = re.search(r"runbook_url: (\S+)", rule)
        assert expression, name
        assert runbook, name
        found.append((name, expression[1], runbook[1]))
    return found


def measured() -> set[str]:
    """The metrics that the code makes."""
    found = set(BUILT_IN)
    for folder in ("shared", "services"):
        for path in Path(folder).rglob("*.py"):
            named = re.findall(
                r"(?:Counter|Gauge|Histogram|Summary|Family)\(\s*\"(\w+)\"", path.read_text()
            )
            found |= set(named)
    return found


def slug(heading: str) -> str:
    """As a page on the web names a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert[0]))
def test_an_alert_leads_to_a_section_that_exists(alert: tuple[str, str, str]) -> None:
    page, _, anchor = alert[2].partition("#")
    headings = re.findall(r"^#+ (.+)$", Path(page).read_text(), re.MULTILINE)

    assert anchor in {slug(heading) for heading in headings}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert[0]))
def test_an_alert_looks_at_metrics_that_are_made(alert: tuple[str, str, str]) -> None:
    expression = re.sub(r"{[^}]*}|\[[^]]*\]|\bby\s*\([^)]*\)", " ", alert[1])
    named = set(re.findall(r"\b[a-z]\w*_\w+\b|\bup\b", expression))
    named -= {"histogram_quantile"}
    plain = {re.sub(r"_(bucket|count|sum)$", "", name) for name in named}

    assert plain
    assert plain <= measured()


def test_every_alert_is_tried_with_what_fires_it_and_what_does_not() -> None:
    tried: dict[str, set[bool]] = {}
    for name, none in re.findall(r"alertname: (\w+)\n +exp_alerts:( \[\])?", CASES.read_text()):
        tried.setdefault(name, set()).add(not none)

    assert tried == {name: {True, False} for name, _, _ in alerts()}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (package prometheus)")
@pytest.mark.parametrize("words", [["check", "rules", str(ALERTS)], ["test", "rules", str(CASES)]])
def test_prometheus_finds_the_rules_right(words: list[str]) -> None:
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *words], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
