"""Note whose cached entitlements are out of date; a worker tells the cache after the commit."""

from collections.abc import Iterable
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert as upsert

from services.subscriptions import tables
from services.subscriptions.entitlement_cache import EVERYBODY
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.clock import utc_now


async def mark_stale(uow: SubscriptionsUnitOfWork, account_ids: Iterable[UUID]) -> None:
    """In the transaction of the change, so that no crash leaves the cache behind for good."""
    now = utc_now()
    rows = [{"account_id": account_id, "marked_at": now} for account_id in sorted(account_ids)]
    if rows:
        statement = upsert(tables.stale_entitlements).on_conflict_do_nothing()
        await uow.session.execute(statement, rows)
        uow.wake("forget_stale_entitlements")


async def mark_everybody_stale(uow: SubscriptionsUnitOfWork) -> None:
    """What many hold has changed: one mark, however many they are."""
    await mark_stale(uow, [EVERYBODY])
