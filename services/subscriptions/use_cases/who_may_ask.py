"""Who asks for something, and what the plan lets them do themselves."""

from dataclasses import dataclass

from services.subscriptions.domain.self_service import EVERYTHING, SelfService
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.repository import SubscriptionsUnitOfWork


@dataclass(frozen=True, slots=True)
class Asker:
    """Staff, who may all, or a subscriber, who may what the plan says."""

    is_staff: bool

    @property
    def name(self) -> str:
        """As what waits keeps it."""
        return "staff" if self.is_staff else "customer"

    async def policy(self, uow: SubscriptionsUnitOfWork, subscription: Subscription) -> SelfService:
        """What they may do with this subscription."""
        if self.is_staff:
            return EVERYTHING
        plan = await uow.catalog.plan(subscription.plan_id)
        return plan.self_service


STAFF = Asker(is_staff=True)
