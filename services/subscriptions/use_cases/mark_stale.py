"""Note whose cached entitlements are out of date; a worker tells the cache after the commit."""

from collections.abc import Iterable
from uuid import UUID

from services.subscriptions.entitlement_cache import EVERYBODY
from services.subscriptions.repository import SubscriptionsUnitOfWork
from shared.clock import utc_now

#: One array, not a parameter per account: a batch of renewals marks hundreds.
MARK = """
INSERT INTO subscriptions.stale_entitlements (account_id, marked_at)
SELECT account_id, $2 FROM unnest($1::uuid[]) AS account_id ON CONFLICT DO NOTHING
"""


async def mark_stale(uow: SubscriptionsUnitOfWork, account_ids: Iterable[UUID]) -> None:
    """In the transaction of the change, so that no crash leaves the cache behind for good."""
    # In one order, so that two transactions never wait for each other.
    if stale := sorted(account_ids):
        await uow.fetch(MARK, stale, utc_now())
        uow.wake("forget_stale_entitlements")


async def mark_everybody_stale(uow: SubscriptionsUnitOfWork) -> None:
    """What many hold has changed: one mark, however many they are."""
    await mark_stale(uow, [EVERYBODY])
