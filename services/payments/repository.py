"""Loading for a change, with the row locked; and the transaction that does it."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.payments.domain.dunning import Dunning
from services.payments.domain.ledger import LedgerEntry, Posting
from services.payments.domain.methods import OwedInvoice, PaymentMethod, PaymentMethodNotFound
from services.payments.domain.payments import (
    OPEN_ATTEMPTS,
    Attempt,
    AttemptStatus,
    Payment,
    PaymentNotFound,
)
from services.payments.domain.refunds import Dispute, DisputeStatus, Refund
from services.payments.domain.webhooks import WebhookEvent
from services.payments.tables import attempts as attempts_table
from services.payments.tables import disputes as disputes_table
from services.payments.tables import dunnings as dunnings_table
from services.payments.tables import ledger_transactions, payment_methods
from services.payments.tables import payments as payments_table
from shared.clock import utc_now
from shared.db import Platform, Scope, UnitOfWork
from shared.ids import new_id


class Payments:
    """Payments. The payment's row is locked before anything of it is touched."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, payment: Payment) -> None:
        self._session.add(payment)

    async def get(self, payment_id: UUID) -> Payment:
        """The payment, locked. Raises `PaymentNotFound`."""
        found = await self._one(select(Payment).where(payments_table.c.id == payment_id))
        if found is None:
            raise PaymentNotFound("There is no such payment.")
        return found

    async def find_for_invoice(self, invoice_id: UUID) -> Payment | None:
        return await self._one(select(Payment).where(payments_table.c.invoice_id == invoice_id))

    async def _one(self, statement: Select[Payment]) -> Payment | None:
        statement = statement.with_for_update().execution_options(populate_existing=True)
        return (await self._session.scalars(statement)).one_or_none()


class Attempts:
    """Attempts; only touched while their payment's row is locked."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, attempt: Attempt) -> None:
        self._session.add(attempt)

    async def find(self, attempt_id: UUID) -> Attempt | None:
        statement = select(Attempt).where(attempts_table.c.id == attempt_id)
        statement = statement.execution_options(populate_existing=True)
        return (await self._session.scalars(statement)).one_or_none()

    async def open_of(self, payment_id: UUID) -> Attempt | None:
        """The attempt that is under way."""
        return (
            await self._session.scalars(
                select(Attempt).where(
                    attempts_table.c.payment_id == payment_id,
                    attempts_table.c.status.in_(OPEN_ATTEMPTS),
                )
            )
        ).one_or_none()

    async def last_of(self, payment_id: UUID) -> Attempt | None:
        """The newest attempt."""
        statement = (
            select(Attempt)
            .where(attempts_table.c.payment_id == payment_id)
            .order_by(attempts_table.c.number.desc())
            .limit(1)
        )
        return (await self._session.scalars(statement)).one_or_none()

    async def successful_of(self, payment_id: UUID) -> Attempt | None:
        """The attempt that took the money."""
        return (
            await self._session.scalars(
                select(Attempt).where(
                    attempts_table.c.payment_id == payment_id,
                    attempts_table.c.status == AttemptStatus.SUCCEEDED,
                )
            )
        ).one_or_none()


class PaymentMethods:
    """Ways to pay.

    A method is locked before payments are, and an attempt points at a method while its payment is
    locked: the lock lets such pointers through (`key_share`), or the two would wait for each other.
    """

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, method: PaymentMethod) -> None:
        self._session.add(method)

    async def get(self, method_id: UUID) -> PaymentMethod:
        """The attached method, locked. Raises `PaymentMethodNotFound`."""
        found = await self._session.get(
            PaymentMethod, method_id, with_for_update={"key_share": True}, populate_existing=True
        )
        if found is None or found.detached_at is not None:
            raise PaymentMethodNotFound("There is no such payment method.")
        return found

    async def of_account(self, account_id: UUID) -> Sequence[PaymentMethod]:
        """The attached methods, locked, the default first, then the newest."""
        statement = (
            select(PaymentMethod)
            .where(
                payment_methods.c.account_id == account_id,
                payment_methods.c.detached_at.is_(None),
            )
            .order_by(payment_methods.c.is_default.desc(), payment_methods.c.id.desc())
            .with_for_update(key_share=True)
        )
        return (await self._session.scalars(statement)).all()


class Ledger:
    """The books. Nothing is ever changed in them."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def post(self, posting: Posting, *, account_id: UUID | None, at: datetime) -> bool:
        """Write a movement. A movement that was posted before is left alone: False."""
        if not posting.legs:
            return False
        transaction_id = new_id()
        claim = (
            upsert(ledger_transactions)
            .values(
                id=transaction_id,
                account_id=account_id,
                kind=posting.kind,
                reference=posting.reference,
                occurred_at=at,
                recorded_at=utc_now(),
            )
            .on_conflict_do_nothing()
            .returning(ledger_transactions.c.id)
        )
        if (await self._session.execute(claim)).first() is None:
            return False
        self._session.add_all(
            LedgerEntry(
                id=new_id(),
                transaction_id=transaction_id,
                account_id=account_id,
                ledger_account=leg.account,
                amount=leg.amount,
                currency=posting.currency,
                occurred_at=at,
            )
            for leg in posting.legs
        )
        return True


class PaymentsUnitOfWork(UnitOfWork):
    """One transaction of the payments service."""

    def __init__(self, session: AsyncSession, scope: Scope, platform: Platform) -> None:
        super().__init__(session, scope, platform)
        self.payments = Payments(session)
        self.attempts = Attempts(session)
        self.methods = PaymentMethods(session)
        self.ledger = Ledger(session)

    async def dunning_of(self, payment_id: UUID) -> Dunning | None:
        """The payment's dunning; its payment's row is locked by the caller."""
        return (
            await self.session.scalars(
                select(Dunning).where(dunnings_table.c.payment_id == payment_id)
            )
        ).one_or_none()

    async def invoice(self, invoice_id: UUID) -> OwedInvoice | None:
        return await self.session.get(OwedInvoice, invoice_id, with_for_update=True)

    async def read_invoice(self, invoice_id: UUID) -> OwedInvoice | None:
        """The invoice as it stands, without a lock, for who holds its payment's lock.

        Who changes an invoice locks it first and its payment after it; the other way round the
        two would wait for each other. It sees what was done under the payment's lock.
        """
        return await self.session.get(OwedInvoice, invoice_id)

    async def refund(self, refund_id: UUID) -> Refund | None:
        return await self.session.get(
            Refund, refund_id, with_for_update=True, populate_existing=True
        )

    async def webhook(self, webhook_id: UUID) -> WebhookEvent | None:
        return await self.session.get(WebhookEvent, webhook_id, with_for_update=True)

    async def disputed_of(self, payment_id: UUID) -> int:
        """What banks hold or have taken of a payment, whose row the caller has locked."""
        found = await self.session.scalar(
            select(func.coalesce(func.sum(disputes_table.c.amount), 0)).where(
                disputes_table.c.payment_id == payment_id,
                disputes_table.c.status != DisputeStatus.WON,
            )
        )
        return int(found or 0)

    async def dispute(self, provider: str, reference: str) -> Dispute | None:
        statement = (
            select(Dispute).filter_by(provider=provider, reference=reference).with_for_update()
        )
        return (await self.session.scalars(statement)).one_or_none()
