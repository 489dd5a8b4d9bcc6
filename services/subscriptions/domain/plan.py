"""Plans: what is sold, by name, and what follows when it is not paid for."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from services.subscriptions.domain.catalog import Editable, Grant
from services.subscriptions.domain.self_service import SelfService
from shared.errors import Conflict, Invalid, NotFound
from shared.events.subscriptions import DunningPolicy, PlanArchived, PlanPublished

OPERATOR = UUID(int=0)


class PlanStatus(StrEnum):
    DRAFT = "draft"
    PUBLISHED = "published"
    ARCHIVED = "archived"


class TrialEndBehavior(StrEnum):
    """What happens when a trial ends and nobody left a payment method."""

    CANCEL = "cancel"
    PAUSE = "pause"
    INVOICE = "invoice"


class PlanNotFound(NotFound):
    code = "plan-not-found"


class PlanCodeTaken(Conflict):
    code = "plan-code-taken"


class PlanNotPublished(Conflict):
    code = "plan-not-published"


class PlanHasNoPrice(Conflict):
    code = "plan-has-no-price"


class IllegalPlanTransition(Conflict):
    code = "illegal-plan-transition"


class DunningInvalid(Invalid):
    code = "dunning-invalid"


MOST_DUNNING_TRIES = 10
LONGEST_DUNNING_WAIT_DAYS = 60


@dataclass(eq=False, kw_only=True)
class Plan(Editable):
    id: UUID
    code: str
    name: str
    description: str = ""
    product_id: UUID | None = None
    features: tuple[Grant, ...] = ()
    trial_days: int = 0
    trial_end_behavior: TrialEndBehavior = TrialEndBehavior.CANCEL
    trial_requires_payment_method: bool = False
    dunning: DunningPolicy = field(default_factory=DunningPolicy)
    self_service: SelfService = field(default_factory=SelfService)
    status: PlanStatus = PlanStatus.DRAFT
    #: The sequence of its last event; edits that no event tells of count in `revision` alone.
    version: int = 0
    revision: int = 1
    created_at: datetime

    def __post_init__(self) -> None:
        check_dunning(self.dunning)

    def check_edit(self) -> None:
        check_dunning(self.dunning)

    def publish(self, *, has_price: bool, at: datetime) -> PlanPublished:
        """Open it to subscribers. `has_price`: one that is sold by itself, and no component."""
        if self.status is not PlanStatus.DRAFT:
            raise IllegalPlanTransition(f"The plan is {self.status}; only a draft is published.")
        return self._open(has_price=has_price, at=at)

    def unarchive(self, *, has_price: bool, at: datetime) -> PlanPublished:
        """Open it to new subscribers again."""
        if self.status is not PlanStatus.ARCHIVED:
            raise IllegalPlanTransition(f"The plan is {self.status}, not archived.")
        return self._open(has_price=has_price, at=at)

    def _open(self, *, has_price: bool, at: datetime) -> PlanPublished:
        if not has_price:
            raise PlanHasNoPrice(
                "Give the plan a price that is sold by itself before you publish it."
            )
        self._become(PlanStatus.PUBLISHED)
        return PlanPublished(
            occurred_at=at,
            account_id=OPERATOR,
            sequence=self.version,
            plan_id=self.id,
            code=self.code,
        )

    def archive(self, *, at: datetime) -> PlanArchived:
        """Close it to new subscribers; those it has keep it."""
        if self.status is PlanStatus.ARCHIVED:
            raise IllegalPlanTransition("The plan is archived already.")
        self._become(PlanStatus.ARCHIVED)
        return PlanArchived(
            occurred_at=at, account_id=OPERATOR, sequence=self.version, plan_id=self.id
        )

    def _become(self, status: PlanStatus) -> None:
        """Its subscribers hear of each status by an event, and of edits by none."""
        self.status = status
        self.version += 1
        self.revision += 1

    def require_published(self) -> None:
        if self.status is not PlanStatus.PUBLISHED:
            raise PlanNotPublished(f"The plan {self.code} is {self.status}, not published.")


def check_dunning(policy: DunningPolicy) -> None:
    if len(policy.days) > MOST_DUNNING_TRIES or any(
        not 1 <= days <= LONGEST_DUNNING_WAIT_DAYS for days in policy.days
    ):
        raise DunningInvalid(
            f"Dunning has at most {MOST_DUNNING_TRIES} tries, each 1 to "
            f"{LONGEST_DUNNING_WAIT_DAYS} days after the one before.",
            field="dunning",
        )
