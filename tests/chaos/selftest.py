"""`python -m tests.chaos.selftest [defect …]`: plants each defect in turn; every one is found.

A defect is found when a rule that it breaks says so. That something is wrong is not enough: nearly
any defect leaves work undone, and a rule that nobody ever saw fail may be one that cannot.

One line of JSON per defect. The exit code is 1 when one was not found: then the harness is blind
in that place, and a clean run of it says less than it seems to.
"""

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

from tests.chaos.planted import PLANTS
from tests.chaos.run import Wanted, run
from tests.chaos.topology import Shape

KILLS = ("worker killed", "worker killed in its transaction")
QUIET = ("cache emptied",)
BROKER = ("broker frozen and killed", "broker killed")


@dataclass(frozen=True)
class Search:
    """How a defect is brought out within a minute, and what the checker says of it then."""

    faults: tuple[str, ...]
    #: Violations of which one contains one of these.
    signs: tuple[str, ...]
    #: Processes that it takes several of.
    scale: str = ""


NOT_HANDLED = "events not handled"
CHARGED_TWICE = "an invoice charged twice at the provider"
SEARCHES = {
    "marked before published": Search((*KILLS, *BROKER), (NOT_HANDLED,)),
    "published without confirms": Search(("broker frozen and killed",), (NOT_HANDLED,)),
    "acknowledged before committed": Search(("worker killed in its transaction",), (NOT_HANDLED,)),
    "no inbox": Search(
        ("worker killed", "broker connections closed"),
        ("handled more often than there were events",),
    ),
    "done by redis alone": Search(("worker killed in its transaction",), (NOT_HANDLED,)),
    "no sequence gate": Search(
        ("process frozen", "worker killed"),
        ("handled before what precedes it",),
        scale="invoicing-worker=2 payments-worker=2",
    ),
    "unknown types given up": Search(
        ("release rolled",), ("parked: ", "what the next release reported is not kept")
    ),
    "poison dropped": Search(("database sessions ended", "tables locked"), (NOT_HANDLED,)),
    "outbox in a transaction of its own": Search(
        KILLS,
        # The event itself, or what another service would have done about it.
        ("a sequence with a gap", "not matched with an invoice", "began and was not billed"),
    ),
    "a new key each time": Search(("provider killed", "worker killed"), (CHARGED_TWICE,)),
    "unknown tried again": Search(("provider killed", "cache emptied"), (CHARGED_TWICE,)),
    "ledger posted later": Search(("worker killed",), ("attempt that is not in the ledger",)),
    # The sessions are those of every service: no draw decides whether payments is met.
    "charged before stored": Search(("worker killed", "database sessions ended"), (CHARGED_TWICE,)),
    "nobody asks the provider": Search(("webhooks lost",), ("differ about a charge",)),
    "invoice numbers from a sequence": Search(("worker killed",), ("invoice numbers with a gap",)),
    "idempotency keys forgotten": Search(("gateway killed", "api killed"), ("was refused",)),
    # These need no fault: customers do what brings them out.
    "a note on the wrong line": Search(QUIET, ("more was taken back of a line than was billed",)),
    "refunds by hand forgotten": Search(QUIET, ("had gone back by hand was given again",)),
    "both charged": Search(QUIET, ("charged twice for one time",)),
    "renewed for nothing": Search(QUIET, ("a period that nothing was charged for",)),
    "the whole for a part": Search(QUIET, ("not the time that was taken back",)),
    "credit given twice": Search(QUIET, ("other than it paid, less what it used",)),
    "previews that take nothing back": Search(QUIET, ("a preview is not what came",)),
    "an end forgotten": Search(QUIET, ("what was to happen is forgotten",)),
    "what waits for the next bill lost": Search(QUIET, ("a charge that is on no invoice",)),
    "late usage forgotten": Search(QUIET, ("a window that was billed other than it is",)),
    "usage taken whatever counts it": Search(QUIET, ("billed twice, or never",)),
    "reductions not heard of": Search(
        QUIET,
        ("what is owed and what is asked for differ", "what the ledger expects and what is owed"),
    ),
}
COUNT = int(os.environ.get("CHAOS_FAULTS") or 15)
#: Enough for a customer with each kind of card.
SUBSCRIPTIONS = int(os.environ.get("CHAOS_SUBSCRIPTIONS") or 28)
SEED = int(os.environ.get("CHAOS_SEED") or 1)


def main() -> int:
    """Plant those that are named, or all."""
    unknown = sorted(set(sys.argv[1:]) - PLANTS.keys())
    if unknown:
        sys.stderr.write(f"No such defect: {', '.join(unknown)}. There are: {', '.join(PLANTS)}.\n")
        return 2
    blind = []
    for defect in sys.argv[1:] or PLANTS:
        report = _plant(defect)
        violations = report["violations"]
        found = [one for one in violations if any(sign in one for sign in SEARCHES[defect].signs)]
        told = {key: report.get(key) for key in ("defect", "seed", "commit", "faults", "took_s")}
        told |= {"found": found[:3], "violations": len(violations)}
        if not found:
            told["instead"] = violations[:3]
        sys.stdout.write(json.dumps(told) + "\n")
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
        only=SEARCHES[defect].faults,
        shape=Shape(defect=defect, scale=SEARCHES[defect].scale),
        keep=False,
    )

    def tell(text: str) -> None:
        sys.stderr.write(f"  {defect}: {text}\n")

    return run(wanted, tell)


if __name__ == "__main__":
    raise SystemExit(main())
