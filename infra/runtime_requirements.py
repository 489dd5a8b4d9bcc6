"""Prints the part of the lock file that the services run with, hashes and all.

The lock holds the tools of development too, and says by `# via` what asked for each package:
what nothing but those tools asked for has no business in an image.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = "perennial (pyproject.toml)"


def runtime(lock: str) -> str:
    """The entries that the project itself needs, directly or through others."""
    entries = re.findall(r"^[A-Za-z0-9][^\n]*\n(?:[ ]+[^\n]*\n)*", lock, re.MULTILINE)
    asked_by = {_name(entry): set(_via(entry)) for entry in entries}
    needed = {ROOT}
    while more := {name for name, via in asked_by.items() if via & needed} - needed:
        needed |= more
    return "".join(entry for entry in entries if _name(entry) in needed)


def _name(entry: str) -> str:
    return re.split(r"[=\[; ]", entry, maxsplit=1)[0]


def _via(entry: str) -> Sequence[str]:
    _, _, comment = entry.partition("# via")
    return [line.strip("# ").strip() for line in comment.splitlines() if line.strip("# ").strip()]


if __name__ == "__main__":
    sys.stdout.write(runtime(Path(sys.argv[1]).read_text()))
