"""What comparing the books comes to: differences, each of a class, and what was compared."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class DifferenceClass(StrEnum):
    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    AMOUNT = "amount"
    CURRENCY = "currency"
    STATE = "state"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Difference:
    """Two books that do not say the same. `between` names them, `reference` what it is about."""

    kind: DifferenceClass
    between: str
    reference: str
    detail: str


@dataclass
class Audit:
    """What was compared and what came of it. `pending` is under way and no difference yet."""

    checked: Counter[str] = field(default_factory=Counter)
    pending: int = 0
    differences: list[Difference] = field(default_factory=list)

    def differ(self, kind: DifferenceClass, between: str, reference: object, detail: str) -> None:
        self.differences.append(Difference(kind, between, str(reference), detail))
