"""`python -m tests.chaos`: one run, told line by line; ends with its report as one line of JSON.

CHAOS_FAULTS, CHAOS_SUBSCRIPTIONS and CHAOS_SEED decide it; CHAOS_ONLY keeps to some faults
(names separated by commas). CHAOS_BROKERS=3 makes the broker a cluster, CHAOS_STANDBY=sync (or
async) has a standby follow Postgres, CHAOS_SCALE="payments-worker=2" starts replicas, CHAOS_DEFECT
plants a defect. The exit code is 1 when something was found.
"""

import json
import os
import secrets
import sys
import time

from tests.chaos.run import Wanted, run
from tests.chaos.topology import Shape


def main() -> int:
    """Run as the environment says."""
    told = os.environ.get
    wanted = Wanted(
        seed=int(told("CHAOS_SEED") or secrets.randbelow(1_000_000)),
        faults=int(told("CHAOS_FAULTS") or 300),
        subscriptions=int(told("CHAOS_SUBSCRIPTIONS") or 400),
        only=tuple(name.strip() for name in (told("CHAOS_ONLY") or "").split(",") if name.strip()),
        shape=Shape(
            defect=told("CHAOS_DEFECT") or None,
            scale=told("CHAOS_SCALE") or "",
            brokers=int(told("CHAOS_BROKERS") or 1),
            standby=told("CHAOS_STANDBY") or "",
        ),
    )
    began = time.monotonic()

    def tell(text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - began:7.1f} s  {text}\n")
        sys.stderr.flush()

    tell(f"seed {wanted.seed}")
    report = run(wanted, tell)
    stories = report.pop("stories", [])
    sys.stdout.write(f"{json.dumps(report)}\n")
    for violation in report["violations"]:
        sys.stderr.write(f"VIOLATION {violation}\n")
    for line in stories:
        sys.stderr.write(f"{line}\n")
    if report["violations"]:
        sys.stderr.write(f"Repeat it with: CHAOS_SEED={wanted.seed} make chaos\n")
    return 1 if report["violations"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
