"""Subscriptions, what is known of their accounts, and how far their invoices have come."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.subscriptions import tables
from services.subscriptions.domain.account import (
    Account,
    AccountIsClosed,
    AccountNotFound,
    AccountNotReady,
    PaymentMethod,
    PaymentMethodUnknown,
    Project,
    ProjectNotActive,
)
from services.subscriptions.domain.standing import InvoiceState
from services.subscriptions.domain.subscription import Subscription, SubscriptionNotFound
from services.subscriptions.repository.catching_up import catch_up
from shared.clock import utc_now
from shared.events.subscriptions import Billable
from shared.ids import is_new
from shared.schedule import Due

prices = tables.prices.c
subscriptions = tables.subscriptions.c
invoice_states = tables.invoice_states.c

#: One array per column: the statement is the same for any number.
CLAIM_PERIODS = text(
    """
    INSERT INTO subscriptions.billed_periods
      (subscription_id, reason, period_start, period_end, event_id)
    SELECT * FROM unnest(CAST(:subscriptions AS uuid[]), CAST(:reasons AS text[]),
                         CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[]),
                         CAST(:events AS uuid[]))
        ON CONFLICT DO NOTHING
    RETURNING event_id
    """
)


class Subscriptions:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, subscription: Subscription) -> None:
        self._session.add(subscription)

    async def get(self, subscription_id: UUID) -> Subscription:
        """The subscription, locked until the commit."""
        found = await self.find(subscription_id)
        if found is None:
            raise SubscriptionNotFound(f"There is no subscription {subscription_id}.")
        return found

    async def find(self, subscription_id: UUID) -> Subscription | None:
        found = await self._session.get(Subscription, subscription_id, with_for_update=True)
        if found is not None:
            await catch_up(self._session, [found])
        return found

    async def catch_up(self, found: Sequence[Subscription]) -> Sequence[Subscription]:
        """Those, also where an earlier release wrote them last."""
        return await catch_up(self._session, found)

    async def served(self, account_id: UUID) -> Sequence[Subscription]:
        """An account's that have the service, for reading."""
        statement = (
            select(Subscription)
            .where(
                subscriptions.account_id == account_id,
                subscriptions.status.in_(("trialing", "active", "past_due")),
            )
            .order_by(subscriptions.id)
        )
        return (await self._session.scalars(statement)).all()

    async def had_one(self, account_id: UUID) -> bool:
        """Whether the account has, or had, a subscription; a start that expired is none."""
        statement = select(subscriptions.id).where(
            subscriptions.account_id == account_id,
            subscriptions.status != "incomplete_expired",
        )
        return (await self._session.scalar(statement.limit(1))) is not None

    async def list_open_of(self, account_id: UUID) -> Sequence[Subscription]:
        """All of an account's that have not ended, locked in one order."""
        statement = (
            select(Subscription)
            .where(
                subscriptions.account_id == account_id,
                subscriptions.status.not_in(("canceled", "incomplete_expired")),
            )
            .order_by(subscriptions.id)
            .with_for_update()
        )
        return await catch_up(self._session, (await self._session.scalars(statement)).all())

    async def claim_due(
        self, due: Due, *, most: int, only: UUID | None = None
    ) -> Sequence[Subscription]:
        """What is due, oldest first, that no other worker has in hand."""
        statement = (
            select(Subscription)
            .where(due.matches(subscriptions.due_at, subscriptions.account_id))
            .order_by(subscriptions.due_at)
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        if only is not None:
            statement = statement.where(subscriptions.id == only)
        return await catch_up(self._session, (await self._session.scalars(statement)).all())

    async def claim_holders(
        self, price_id: UUID, *, after: UUID | None, most: int
    ) -> Sequence[Subscription]:
        """The next of those that have the service at this price, locked."""
        statement = (
            select(Subscription)
            .where(
                subscriptions.price_id == price_id,
                subscriptions.status.in_(("trialing", "active", "past_due")),
            )
            .order_by(subscriptions.id)
            .limit(most)
            .with_for_update()
        )
        if after is not None:
            statement = statement.where(subscriptions.id > after)
        return await catch_up(self._session, (await self._session.scalars(statement)).all())

    async def claim_left_waiting(self, *, most: int) -> Sequence[Subscription]:
        """Those that an earlier release found nothing to do for, although they are to end.

        It did not look again at what is unpaid or rests; caught up with, they are due again.
        """
        statement = (
            select(Subscription)
            .where(
                subscriptions.due_at.is_(None),
                subscriptions.parked_at.is_(None),
                subscriptions.cancel_at_period_end,
                subscriptions.status.in_(("unpaid", "paused")),
            )
            .limit(most)
            .with_for_update(skip_locked=True)
        )
        return await catch_up(self._session, (await self._session.scalars(statement)).all())

    async def next_due(self, account_id: UUID) -> datetime | None:
        statement = select(func.min(subscriptions.due_at)).where(
            subscriptions.account_id == account_id
        )
        found: datetime | None = await self._session.scalar(statement)
        return found

    async def claim_periods(self, events: Sequence[tuple[str, Billable]]) -> set[UUID]:
        """Record periods as billed; returns the events that were first to bill theirs."""
        if not events:
            return set()
        columns = {
            "subscriptions": [event.subscription_id for _, event in events],
            "reasons": [reason for reason, _ in events],
            "starts": [event.period_start for _, event in events],
            "ends": [event.period_end for _, event in events],
            "events": [event.id for _, event in events],
        }
        return set((await self._session.scalars(CLAIM_PERIODS, columns)).all())

    async def invoice_state(self, invoice_id: UUID) -> InvoiceState | None:
        return await self._session.get(InvoiceState, invoice_id, with_for_update=True)

    async def billed_by(self, invoice_id: UUID) -> list[UUID]:
        """The subscriptions of an invoice, as far as it is known."""
        found = (
            await self._session.execute(
                select(invoice_states.subscription_id, invoice_states.subscription_ids).where(
                    invoice_states.invoice_id == invoice_id
                )
            )
        ).one_or_none()
        if found is None:
            return []
        return [found.subscription_id] if found.subscription_id else list(found.subscription_ids)

    def add_invoice_state(self, state: InvoiceState) -> None:
        self._session.add(state)

    async def invoice_states(self, subscription_id: UUID) -> Sequence[InvoiceState]:
        """How far all its invoices have come."""
        await self._session.flush()
        statement = select(InvoiceState).where(
            or_(
                invoice_states.subscription_id == subscription_id,
                invoice_states.subscription_ids.contains([subscription_id]),
            )
        )
        return (await self._session.scalars(statement)).all()

    async def claim_trial(self, account_id: UUID, plan_id: UUID, subscription_id: UUID) -> bool:
        """Use up the account's trial of a plan; whether it was still there."""
        uses = tables.trial_uses
        statement = (
            upsert(uses)
            .values(account_id=account_id, plan_id=plan_id, subscription_id=subscription_id)
            .on_conflict_do_nothing()
            .returning(uses.c.account_id)
        )
        return (await self._session.scalar(statement)) is not None


class Accounts:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, entity: Account | PaymentMethod | Project) -> None:
        self._session.add(entity)

    async def get(self, account_id: UUID) -> Account:
        account = await self._session.get(Account, account_id)
        if account is None:
            if not is_new(account_id, at=utc_now()):
                raise AccountNotFound("There is no such account.")
            raise AccountNotReady("The account is being set up. Try again in a moment.")
        if account.closed:
            raise AccountIsClosed("The account is closed.")
        return account

    async def find(self, account_id: UUID) -> Account | None:
        return await self._session.get(Account, account_id, with_for_update=True)

    async def payment_method(self, payment_method_id: UUID) -> PaymentMethod | None:
        return await self._session.get(PaymentMethod, payment_method_id, with_for_update=True)

    async def project(self, project_id: UUID) -> Project | None:
        return await self._session.get(Project, project_id, with_for_update=True)

    async def require_active_project(self, account_id: UUID, project_id: UUID) -> None:
        """Raises `ProjectNotActive`; one that was activated a moment ago may not be known yet."""
        found = await self._session.get(Project, project_id)
        if found is None or found.account_id != account_id or not found.active:
            raise ProjectNotActive(
                "The account has no active project of this id; a new one takes a moment.",
                field="project_id",
            )

    async def require_payment_method(self, account_id: UUID, method_id: UUID) -> None:
        """Raises `PaymentMethodUnknown`; one that was attached a moment ago is taken at its word.

        Payments charges nobody's but the account's own, whatever is named here.
        """
        methods = tables.payment_methods.c
        # Columns and not the entity: those of other accounts are to be seen here, too.
        statement = select(methods.account_id, methods.attached).where(methods.id == method_id)
        found = (await self._session.execute(statement)).one_or_none()
        if found is None:
            is_theirs = is_new(method_id, at=utc_now())
        else:
            is_theirs = found.attached and found.account_id == account_id
        if not is_theirs:
            raise PaymentMethodUnknown(
                "The account has no payment method of this id.", field="payment_method_id"
            )

    async def zones(self, account_ids: Iterable[UUID]) -> dict[UUID, str]:
        rows = await self._session.execute(
            select(tables.accounts.c.id, tables.accounts.c.time_zone).where(
                tables.accounts.c.id.in_(set(account_ids))
            )
        )
        return {row.id: row.time_zone for row in rows}

    async def can_pay(self, account_id: UUID) -> bool:
        methods = tables.payment_methods
        statement = select(methods.c.id).where(
            and_(methods.c.account_id == account_id, methods.c.attached)
        )
        return (await self._session.scalar(statement.limit(1))) is not None
