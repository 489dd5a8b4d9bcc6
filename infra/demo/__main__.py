"""`python -m infra.demo`: tell the story to a terminal and say what to try next."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from infra.demo.client import StoryFailed
from infra.demo.story import Report, Story

NEXT = """
The system keeps running. Try:
  curl {url}/health
  curl {url}/v1/plans
  curl -s {url}/v1/auth/login -H 'Content-Type: application/json' \\
       -d '{{"email": "{staff}", "password": "<PERENNIAL_STAFF_PASSWORD>"}}'
  make logs        what every process says
  make down        stop it all
"""


def main() -> int:
    """Tell it; 0 when everything was as it should be, 1 with one sentence when not."""
    url = os.environ.get("PERENNIAL_PUBLIC_URL", "http://localhost:8080")
    staff = os.environ.get("PERENNIAL_STAFF_EMAIL", "staff@example.com")
    steps = iter(range(1, 100))
    report = Report(
        step=lambda text: print(_bold(f"\n{next(steps)}. {text}"), flush=True),
        fact=lambda text: print(f"   {text}", flush=True),
        event=lambda event: print(_dim(f"   {_line(event)}"), flush=True),
    )
    started = time.monotonic()
    try:
        Story(
            base_url=url,
            mailbox=Path(os.environ.get("PERENNIAL_MAIL_DIR", ".run/mailbox")),
            staff_email=staff,
            staff_password=os.environ.get("PERENNIAL_STAFF_PASSWORD", "perennial-development"),
            report=report,
        ).tell()
    except StoryFailed as failure:
        sys.stderr.write(f"The demo stopped: {failure}\n")
        return 1
    print(_bold(f"\nAll of it took {time.monotonic() - started:.1f} s."))
    print(NEXT.format(url=url, staff=staff))
    return 0


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() else text


def _line(event: dict[str, Any]) -> str:
    return f"{event['occurred_at'][:16].replace('T', ' ')}  {event['service']}: {event['name']}"


if __name__ == "__main__":
    raise SystemExit(main())
