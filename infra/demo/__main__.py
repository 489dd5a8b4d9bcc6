"""`python -m infra.demo`: tell the story to a terminal and say what to try next."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

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
    console = Console(highlight=False, soft_wrap=True)
    url = os.environ.get("PERENNIAL_PUBLIC_URL", "http://localhost:8080")
    staff = os.environ.get("PERENNIAL_STAFF_EMAIL", "staff@example.com")
    steps = iter(range(1, 100))
    report = Report(
        step=lambda text: console.print(f"\n[bold]{next(steps)}. {text}[/bold]"),
        fact=lambda text: console.print(f"   {text}", markup=False),
        event=lambda event: console.print(f"   [dim]{_line(event)}[/dim]"),
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
    console.print(f"\n[bold]All of it took {time.monotonic() - started:.1f} s.[/bold]")
    console.print(NEXT.format(url=url, staff=staff), markup=False)
    return 0


def _line(event: dict[str, Any]) -> str:
    return f"{event['occurred_at'][:16].replace('T', ' ')}  {event['service']}: {event['name']}"


if __name__ == "__main__":
    raise SystemExit(main())
