"""What is generated from the code is committed as the code says it now."""

import re
from pathlib import Path

import pytest

from infra.docs.pages import pages


def test_generated_pages_are_up_to_date() -> None:
    stale = [
        name
        for name, text in pages().items()
        if not Path(name).exists() or Path(name).read_text() != text
    ]

    assert not stale, "run `make docs`, and have a look at what changed"


@pytest.mark.parametrize("page", [Path("README.md"), *sorted(Path("docs").rglob("*.md"))], ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page} links to {target}"
