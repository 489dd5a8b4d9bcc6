"""The page about performance shows what was measured, of whatever shape."""

import json
from xml.etree import ElementTree as ET

from tests.benchmarks.report import RESULTS, comparison, page, plot

RELAY = {
    **comparison("relay", [900, 700, 800], [1000, 1000, 900], beside_what="by hand", goal=0.75),
    "commit": "abc1234",
    "measured_on": "2026-11-25",
    "load": 1.5,
}


def test_a_comparison_is_that_of_medians() -> None:
    assert RELAY["ratio"] == 0.8


def test_what_is_compared_reported_and_left_by_other_areas_is_shown() -> None:
    latency = {
        "what": "latency",
        "values": {"p50": 3.25, "p99": 9},
        "unit": "ms",
        "goal": "p50 < 6",
    }
    shown = page(
        {
            "messaging": {
                "command": "run this",
                "machine": "2 cores",
                "figures": {"relay": RELAY, "latency": latency},
            },
            "payments": {"machine": {"cpus": 2, "python": "3.11"}, "load": [3, 2, 1], "a_rate": 12},
            "invoicing": {"command": "that", "figures": {"documents": {"per_second": 8.15}}},
        }
    )

    assert (
        "| relay | 800 | by hand | 1,000 | **0.8** | ≥ 0.75 | abc1234, 2026-11-25, 1.5 |" in shown
    )
    assert "| latency | p50 3.25, p99 9 ms | p50 < 6 |" in shown
    assert "| a rate | 12 | 3.0 |" in shown
    assert "| documents: per second | 8.15 |" in shown
    assert "`run this` on 2 cores" in shown


def test_the_plot_is_a_picture_with_a_bar_for_each() -> None:
    picture = ET.fromstring(plot([RELAY, {**RELAY, "what": "a < b"}]))  # noqa: S314  (our own)

    assert len([one for one in picture.iter() if one.get("fill") == "#2f7d4f"]) == 2


def test_the_kept_results_can_be_shown() -> None:
    areas = {file.stem: json.loads(file.read_text()) for file in RESULTS.glob("*.json")}

    assert areas
    assert page(areas).count("\n## ") >= len(areas) - 1


def test_the_release_before_stands_beside_this_one() -> None:
    figure = {"before": 281.0, "now": 258.2, "ratio": 1.09, "pairs": 1.03, "rounds": 11}

    shown = page({"release": {"command": "Like this.", "figures": {"renewal": figure}}})

    assert "| renewal | 281.0 | 258.2 | **1.09** | 1.03 | 11 | - |" in shown
