"""`python -m infra.demo`: tell the story to a terminal and say what to try next."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from infra.demo.client import StoryFailed
from infra.demo.story import Report, Story
from infra.environment import STAFF_EMAIL, STAFF_PASSWORD

NEXT = """
The system keeps running. Try this; the first lines need no login:

  curl -s {url}/health
  curl -s '{url}/v1/plans?currency=EUR&limit=2' | python3 -m json.tool

  # A key for your own backend (make key NAME=backend SCOPES=all makes one like it); with it the
  # customer of this story: the account, its invoices, the last one as a PDF, all that happened.
  key={key}
  curl -s '{url}/v1/accounts?external_id={external_id}' -H "Authorization: Bearer $key" \\
    | python3 -m json.tool
  curl -s {url}/v1/invoices -H "Authorization: Bearer $key" \\
    -H 'Perennial-Account: {account}' | python3 -m json.tool
  curl -s {url}/v1/invoices/{invoice}/pdf -H "Authorization: Bearer $key" -o invoice.pdf
  curl -s {url}/v1/subscriptions/{subscription}/timeline \\
    -H "Authorization: Bearer $key" | python3 -m json.tool

  # Staff: what needs a person (nothing, if all is well), and the ledger.
  staff=$(curl -s {url}/v1/auth/login -H 'Content-Type: application/json' \\
    -d '{{"email": "{staff}", "password": "{staff_password}"}}' | {pick})
  curl -s {url}/v1/ops/stuck -H "Authorization: Bearer $staff" | python3 -m json.tool
  curl -s {url}/v1/ledger/balances -H "Authorization: Bearer $staff" | python3 -m json.tool

  make status      what runs          make logs   what every process says
  make down        stop it; the data stays        make reset  forget the data too

docs/first-steps.md goes on from here.
"""
#: The access token out of an answer, with nothing but what every system has.
PICK = """sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/'"""


def main() -> int:
    """Tell it; 0 when everything was as it should be, 1 with one sentence when not."""
    url = os.environ.get("PERENNIAL_PUBLIC_URL", "http://localhost:8080")
    staff = os.environ.get("PERENNIAL_STAFF_EMAIL", STAFF_EMAIL)
    steps = iter(range(1, 100))
    report = Report(
        step=lambda text: print(_bold(f"\n{next(steps)}. {text}"), flush=True),
        fact=lambda text: print(f"   {text}", flush=True),
        event=lambda event: print(_dim(f"   {_line(event)}"), flush=True),
    )
    password = os.environ.get("PERENNIAL_STAFF_PASSWORD", STAFF_PASSWORD)
    story = Story(
        base_url=url,
        mailbox=Path(os.environ.get("PERENNIAL_MAIL_DIR", ".run/mailbox")),
        staff_email=staff,
        staff_password=password,
        report=report,
    )
    started = time.monotonic()
    try:
        story.tell()
    except StoryFailed as failure:
        sys.stderr.write(f"The demo stopped: {failure}\n")
        return 1
    seconds = time.monotonic() - started
    print(_bold(f"\nFour months of billing, told in {seconds:.1f} s; the books agree."))
    # A password of somebody's own is not printed: their shell has it.
    own = password != STAFF_PASSWORD
    print(what_next(story, "'\"$PERENNIAL_STAFF_PASSWORD\"'" if own else password))
    return 0


def what_next(story: Story, staff_password: str) -> str:
    """Commands to paste, with the ids and addresses of the story that was just told."""
    return NEXT.format(
        url=story.base_url,
        key=story.key,
        account=story.account_id,
        external_id=story.external_id,
        invoice=story.last_invoice_id,
        subscription=story.subscription_id,
        staff=story.staff_email,
        staff_password=staff_password,
        pick=PICK,
    )


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if sys.stdout.isatty() else text


def _line(event: dict[str, Any]) -> str:
    return f"{event['occurred_at'][:16].replace('T', ' ')}  {event['service']}: {event['name']}"


if __name__ == "__main__":
    raise SystemExit(main())
