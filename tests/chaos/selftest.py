"""`python -m tests.chaos.selftest [defect …]`: plants each defect in turn; every one is found.

One line of JSON per defect. The exit code is 1 when one was not found: then the harness is blind
in that place, and a clean run of it says less than it seems to.
"""

import json
import os
import sys
from typing import Any

from tests.chaos.planted import PLANTS
from tests.chaos.run import Wanted, run
from tests.chaos.topology import Shape

KILLS = ("worker killed", "worker killed in its transaction")
BROKER = ("broker frozen and killed", "broker killed")
#: The faults that bring each defect out, to find it in a minute; without a name, all of them.
FAULTS: dict[str, tuple[str, ...]] = {
    "marked before published": (*KILLS, *BROKER),
    "published without confirms": ("broker frozen and killed",),
    "acknowledged before committed": ("worker killed in its transaction",),
    "no inbox": ("worker killed", "broker connections closed"),
    "done by redis alone": ("worker killed in its transaction",),
    "no sequence gate": ("process frozen", "worker killed"),
    "poison dropped": ("database sessions ended", "tables locked"),
    "outbox in a transaction of its own": KILLS,
    "a new key each time": ("provider killed", "worker killed"),
    "unknown tried again": ("provider killed", "cache emptied"),
    "ledger posted later": ("worker killed",),
    "charged before stored": ("worker killed",),
    "nobody asks the provider": ("webhooks lost",),
    "invoice numbers from a sequence": ("worker killed",),
    "idempotency keys forgotten": ("gateway killed", "api killed"),
}
#: What takes several processes to come out.
SCALES = {"no sequence gate": "invoicing-worker=2 payments-worker=2"}
COUNT = int(os.environ.get("CHAOS_FAULTS") or 15)
#: Enough for a customer with each kind of card.
SUBSCRIPTIONS = int(os.environ.get("CHAOS_SUBSCRIPTIONS") or 28)
SEED = int(os.environ.get("CHAOS_SEED") or 1)


def main() -> int:
    """Plant those that are named, or all."""
    blind = []
    for defect in sys.argv[1:] or PLANTS:
        report = _plant(defect)
        # What is wrong for good tells more than what is late.
        found = sorted(report["violations"], key=lambda one: one.startswith("not at rest"))
        told = {key: report.get(key) for key in ("defect", "seed", "commit", "faults", "took_s")}
        sys.stdout.write(json.dumps({**told, "found": found[:3], "of": len(found)}) + "\n")
        sys.stdout.flush()
        if not found:
            blind.append(defect)
    if blind:
        sys.stderr.write(f"Not found: {', '.join(blind)}\n")
    return 1 if blind else 0


def _plant(defect: str) -> dict[str, Any]:
    wanted = Wanted(
        seed=SEED,
        faults=COUNT,
        subscriptions=SUBSCRIPTIONS,
        only=FAULTS.get(defect, ()),
        shape=Shape(defect=defect, scale=SCALES.get(defect, "")),
        keep=False,
    )

    def tell(text: str) -> None:
        sys.stderr.write(f"  {defect}: {text}\n")

    return run(wanted, tell)


if __name__ == "__main__":
    raise SystemExit(main())
