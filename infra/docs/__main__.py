"""`python -m infra.docs [--check]`: write the generated pages, or say which are out of date."""

import argparse
import sys
from pathlib import Path

from infra.docs.pages import pages

ROOT = Path(__file__).parents[2]


def main() -> int:
    """0 when all is written, or up to date; 1 with the names of the pages that are not."""
    parser = argparse.ArgumentParser(prog="python -m infra.docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args().check
    stale = []
    for name, text in pages().items():
        path = ROOT / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if check and stale:
        sys.stderr.write(f"Out of date (make docs writes them): {', '.join(stale)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
