"""Usage events, the buckets they add up in, and what of them was billed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    DateTime,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.catalog import Meter
from services.subscriptions.domain.period import BillingPeriod
from services.subscriptions.domain.price import Aggregation
from services.subscriptions.domain.subscription import Subscription
from services.subscriptions.domain.usage import Bucket, UsageEvent, merged
from services.subscriptions.repository import catching_up

Key = tuple[UUID, UUID, datetime]

events = tables.usage_events.c
buckets = tables.usage_buckets.c
members = tables.usage_members.c
windows = tables.usage_windows.c
subscriptions = tables.subscriptions.c

#: One array per column: a statement of thousands of parameters would be read for longer than run.
INSERT_EVENTS = text(
    """
    INSERT INTO subscriptions.usage_events
      (account_id, id, meter_id, subscription_id, value, member, at, bucket_start, received_at)
    SELECT :account, new.*, :received
      FROM unnest(CAST(:ids AS text[]), CAST(:meters AS uuid[]), CAST(:subscriptions AS uuid[]),
                  CAST(:values AS numeric[]), CAST(:members AS text[]),
                  CAST(:ats AS timestamptz[]), CAST(:buckets AS timestamptz[])) AS new
        ON CONFLICT (account_id, id) DO NOTHING
    RETURNING id
    """
).bindparams(bindparam("account", type_=Uuid), bindparam("received", type_=DateTime(timezone=True)))


class UsageStore:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def meters(self, codes: Iterable[str]) -> dict[str, Meter]:
        statement = select(Meter).where(tables.meters.c.code.in_(set(codes)))
        return {meter.code: meter for meter in await self._session.scalars(statement)}

    async def meter(self, meter_id: UUID) -> Meter:
        return await self._session.get_one(Meter, meter_id)

    async def insert(self, account_id: UUID, new: Sequence[UsageEvent]) -> set[str]:
        """Store what is new of what was received at once, and add it up; the ids that were."""
        if not new:
            return set()
        rows = sorted(new, key=lambda event: event.id)
        columns = {
            "ids": [event.id for event in rows],
            "meters": [event.meter_id for event in rows],
            "subscriptions": [event.subscription_id for event in rows],
            "values": [event.value for event in rows],
            "members": [event.member for event in rows],
            "ats": [event.at for event in rows],
            "buckets": [event.bucket_start for event in rows],
        }
        result = await self._session.scalars(
            INSERT_EVENTS, {"account": account_id, "received": rows[0].received_at, **columns}
        )
        stored = set(result.all())
        await self._add_up([event for event in new if event.id in stored])
        return stored

    async def _add_up(self, fresh: Sequence[UsageEvent]) -> None:
        sums: dict[Key, Bucket] = defaultdict(Bucket)
        seen: set[tuple[UUID, UUID, datetime, str]] = set()
        for event in fresh:
            key = (event.subscription_id, event.meter_id, event.bucket_start)
            sums[key].add(event.value, event.at)
            if event.member is not None:
                seen.add((*key, event.member))
        if sums:
            table = tables.usage_buckets
            statement = upsert(table)
            new = statement.excluded
            # A bucket whose events were all voided has no latest one.
            later = or_(table.c.latest_at.is_(None), new.latest_at >= table.c.latest_at)
            # One order for everybody, so that two batches never wait for each other.
            rows = [_bucket_row(key, bucket) for key, bucket in sorted(sums.items())]
            await self._session.execute(
                statement.on_conflict_do_update(
                    index_elements=["subscription_id", "meter_id", "bucket_start"],
                    set_={
                        "total": table.c.total + new.total,
                        "count": table.c.count + new.count,
                        "highest": func.greatest(table.c.highest, new.highest),
                        "latest": case((later, new.latest), else_=table.c.latest),
                        "latest_at": func.greatest(table.c.latest_at, new.latest_at),
                    },
                ),
                rows,
            )
        if seen:
            names = ("subscription_id", "meter_id", "bucket_start", "member")
            await self._session.execute(
                upsert(tables.usage_members).on_conflict_do_nothing(),
                [dict(zip(names, member, strict=True)) for member in sorted(seen)],
            )

    async def find(self, account_id: UUID, ids: Iterable[str]) -> dict[str, tables.UsageRow]:
        """Stored events of an account, by the sender's ids."""
        wanted = sorted(set(ids))
        if not wanted:
            return {}
        # One array, not a parameter per id: the statement is the same for any number.
        statement = select(tables.UsageRow).where(
            events.account_id == account_id, events.id == any_(cast(wanted, ARRAY(Text)))
        )
        return {row.id: row for row in await self._session.scalars(statement)}

    async def void(self, row: tables.UsageRow) -> None:
        """Take an event out and add its bucket up again from those that stay."""
        key = (row.subscription_id, row.meter_id, row.bucket_start)
        # The bucket's lock keeps events that arrive now from being counted twice or not at all.
        where = tuple_(buckets.subscription_id, buckets.meter_id, buckets.bucket_start) == key
        await self._session.execute(select(buckets.count).where(where).with_for_update())
        await self._session.execute(
            update(tables.usage_events)
            .where(events.account_id == row.account_id, events.id == row.id)
            .values(voided=True)
        )
        left = await self._session.execute(
            select(events.value, events.at, events.member).where(
                tuple_(events.subscription_id, events.meter_id, events.bucket_start) == key,
                ~events.voided,
            )
        )
        whole, known = Bucket(), set()
        for value, at, member in left:
            whole.add(value, at)
            known.add(member)
        await self._session.execute(
            update(tables.usage_buckets).where(where).values(**_bucket_row(key, whole))
        )
        if row.member is not None and row.member not in known:
            await self._session.execute(
                delete(tables.usage_members).where(
                    tuple_(members.subscription_id, members.meter_id, members.bucket_start) == key,
                    members.member == row.member,
                )
            )

    async def used(
        self,
        subscription_id: UUID,
        meter_id: UUID,
        window: BillingPeriod,
        aggregation: Aggregation,
    ) -> Decimal:
        """Usage of a window, from its buckets."""
        if aggregation is Aggregation.UNIQUE:
            return Decimal(await self.members(subscription_id, meter_id, window))
        return (await self.whole(subscription_id, meter_id, window)).read(aggregation)

    async def members(self, subscription_id: UUID, meter_id: UUID, window: BillingPeriod) -> int:
        """How many members a window has."""
        found = await self._session.scalar(
            select(func.count(members.member.distinct())).where(
                members.subscription_id == subscription_id,
                members.meter_id == meter_id,
                members.bucket_start >= window.start,
                members.bucket_start < window.end,
            )
        )
        return found or 0

    async def whole(self, subscription_id: UUID, meter_id: UUID, window: BillingPeriod) -> Bucket:
        """What the buckets of a window add up to."""
        rows = await self._session.execute(
            select(
                buckets.total, buckets.count, buckets.highest, buckets.latest, buckets.latest_at
            ).where(
                buckets.subscription_id == subscription_id,
                buckets.meter_id == meter_id,
                buckets.bucket_start >= window.start,
                buckets.bucket_start < window.end,
            )
        )
        return merged(Bucket(*row) for row in rows)

    async def lately_billed(self, account_id: UUID, *, since: datetime) -> Sequence[Any]:
        """The windows of all that an account holds or held that ended after `since`.

        Whatever ends a window changes its subscription, so those that rest are not looked through.
        """
        rows = await self._session.execute(
            select(
                windows.subscription_id,
                windows.window_start,
                windows.window_end,
                windows.price_id,
            )
            .join(tables.subscriptions, subscriptions.id == windows.subscription_id)
            .where(
                subscriptions.account_id == account_id,
                subscriptions.updated_at > since,
                windows.window_end > since,
            )
            .order_by(windows.window_start)
        )
        return rows.all()

    async def subscriptions(self, ids: Iterable[UUID]) -> Sequence[Subscription]:
        """For reading, whatever has become of them."""
        wanted = sorted(set(ids))
        if not wanted:
            return []
        statement = select(Subscription).where(subscriptions.id.in_(wanted))
        return (await self._session.scalars(statement.order_by(subscriptions.id))).all()

    async def billed_windows(self, subscription_id: UUID, *, since: datetime) -> Sequence[Any]:
        """What was billed of windows that ended after `since`."""
        rows = await self._session.execute(
            select(tables.usage_windows)
            .where(and_(windows.subscription_id == subscription_id, windows.window_end > since))
            .order_by(windows.window_start)
        )
        return rows.all()

    async def billed_before(
        self, subscription_id: UUID
    ) -> dict[catching_up.Window, catching_up.BilledWindow]:
        """How an earlier release, which did not keep that with its windows, billed them."""
        return await catching_up.billed_windows(self._session, subscription_id)

    async def mark_billed(self, rows: Sequence[dict[str, Any]]) -> None:
        """Remember what was billed for which window."""
        if not rows:
            return
        statement = upsert(tables.usage_windows)
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["subscription_id", "item_id", "window_start"],
                set_={
                    name: statement.excluded[name]
                    for name in ("used", "billed", "charge_ids", "discounts")
                },
            ),
            list(rows),
        )

    async def raise_alert(
        self, subscription_id: UUID, feature: str, period_start: datetime, percent: int
    ) -> bool:
        """Whether this threshold is told for the first time in the period."""
        table = tables.usage_alerts
        statement = (
            upsert(table)
            .values(
                subscription_id=subscription_id,
                feature=feature,
                period_start=period_start,
                percent=percent,
            )
            .on_conflict_do_nothing()
            .returning(table.c.percent)
        )
        return (await self._session.scalar(statement)) is not None


def _bucket_row(key: Key, bucket: Bucket) -> dict[str, Any]:
    return {
        "subscription_id": key[0],
        "meter_id": key[1],
        "bucket_start": key[2],
        "total": bucket.total,
        "count": bucket.count,
        "highest": bucket.highest,
        "latest": bucket.latest,
        "latest_at": bucket.latest_at,
    }
