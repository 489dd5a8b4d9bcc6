"""The demo's story, told once to a whole system: the journeys and the surface start from it."""

from typing import Any

import pytest

from infra.demo.story import Report, Story
from tests.whole_system import WholeSystem


class Listener:
    """Hears the story: its steps, and the events of each step that had any."""

    def __init__(self) -> None:
        self.facts: list[str] = []
        self.events: list[list[str]] = []

    def report(self) -> Report:
        return Report(step=self._step, fact=self.facts.append, event=self._event)

    def _step(self, _text: str) -> None:
        self.events.append([])

    def _event(self, event: dict[str, Any]) -> None:
        self.events[-1].append(event["name"])


@pytest.fixture(scope="session")
def told(whole_system: WholeSystem) -> tuple[Story, Listener]:
    """The demo's story, told once; it fails where the system does not do as it says."""
    listener = Listener()
    story = Story(
        base_url=whole_system.base_url,
        mailbox=whole_system.mailbox,
        staff_email=whole_system.staff_email,
        staff_password=whole_system.staff_password,
        report=listener.report(),
    )
    story.tell()
    return story, listener
