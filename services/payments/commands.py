"""What an operator runs by hand: `python -m services.payments audit`."""

import argparse
import sys
from datetime import timedelta

from services.payments.repository import PaymentsUnitOfWork
from services.payments.settings import PaymentsSettings
from services.payments.use_cases.audit_books import audit_books
from shared.clock import utc_now
from shared.errors import Unavailable
from shared.runtime import Runtime


async def audit(runtime: Runtime[PaymentsUnitOfWork, PaymentsSettings], rest: list[str]) -> int:
    """Print every difference between the books; exit code 1 when there is one.

    Exit code 2: a provider is out of reach, and nothing is known.
    """
    parser = argparse.ArgumentParser(prog="python -m services.payments audit")
    parser.add_argument("--days", type=int, help="only what moved in so many days")
    asked = parser.parse_args(rest)
    now = utc_now()
    since = now - timedelta(days=asked.days) if asked.days else None
    try:
        found = await audit_books(
            runtime.begin, runtime.settings.enabled_providers, now=now, since=since
        )
    except Unavailable as away:
        sys.stderr.write(f"The books cannot be compared: {away.detail}\n")
        return 2
    for difference in found.differences:
        sys.stdout.write(
            f"{difference.kind:<14} {difference.between:<20} {difference.reference}\n"
            f"               {difference.detail}\n"
        )
    compared = ", ".join(f"{count} {what}" for what, count in sorted(found.checked.items()))
    sys.stdout.write(
        f"Compared {compared or 'nothing'}: {len(found.differences)} differences, "
        f"{found.pending} under way.\n"
    )
    return 1 if found.differences else 0
