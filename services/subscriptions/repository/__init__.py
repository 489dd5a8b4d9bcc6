"""Loading for a change: locked, in the caller's scope. And the unit of work that holds it all."""

from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions.repository.catalog import Catalog
from services.subscriptions.repository.clocks import Clocks
from services.subscriptions.repository.coupons import Coupons
from services.subscriptions.repository.subscriptions import Accounts, Subscriptions
from services.subscriptions.repository.tokens import Tokens
from services.subscriptions.repository.usage import UsageStore
from shared.db import Platform, Scope, UnitOfWork


class SubscriptionsUnitOfWork(UnitOfWork):
    def __init__(self, session: AsyncSession, scope: Scope, platform: Platform) -> None:
        super().__init__(session, scope, platform)
        self.catalog = Catalog(session)
        self.subscriptions = Subscriptions(session)
        self.accounts = Accounts(session)
        self.coupons = Coupons(session)
        self.clocks = Clocks(session)
        self.usage = UsageStore(session)
        self.tokens = Tokens(session)
