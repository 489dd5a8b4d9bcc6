"""Ways to pay, as they are shown."""

from datetime import datetime
from typing import Literal, Self
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.payments.domain.methods import PaymentMethod, PaymentMethodNotFound
from services.payments.domain.payments import Attempt
from services.payments.tables import payment_methods
from shared.pages import Page, PageRequest


class NextAction(BaseModel):
    """What has to be confirmed with the payer's bank: at a page, or by the provider's own script.

    `redirect` has the `url` to send the payer to; `client_secret` is what the script of the
    provider (Stripe.js, say) wants.
    """

    type: Literal["redirect", "client_secret"] = "redirect"
    url: str | None = None
    client_secret: str | None = None

    @classmethod
    def of(cls, thing: PaymentMethod | Attempt) -> Self | None:
        """None where nobody has to confirm anything."""
        if thing.action_url:
            return cls(type="redirect", url=thing.action_url)
        if thing.client_secret:
            return cls(type="client_secret", client_secret=thing.client_secret)
        return None


class PaymentMethodView(BaseModel):
    """A way to pay. While `next_action` is set, its owner has yet to confirm it."""

    id: UUID
    account_id: UUID
    provider: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    is_default: bool
    next_action: NextAction | None
    created_at: datetime
    version: int

    @classmethod
    def of(cls, method: PaymentMethod) -> Self:
        return cls(
            id=method.id,
            account_id=method.account_id,
            provider=method.provider,
            brand=method.brand,
            last4=method.last4,
            exp_month=method.exp_month,
            exp_year=method.exp_year,
            is_default=method.is_default,
            next_action=NextAction.of(method),
            created_at=method.created_at,
            version=method.version,
        )


async def list_payment_methods(session: AsyncSession, page: PageRequest) -> Page[PaymentMethodView]:
    statement = select(PaymentMethod).where(payment_methods.c.detached_at.is_(None))
    rows = (await session.scalars(page.narrow(statement, payment_methods.c.id))).all()
    return page.page(rows, PaymentMethodView.of, lambda method: method.id)


async def show_payment_method(session: AsyncSession, method_id: UUID) -> PaymentMethodView:
    statement = select(PaymentMethod).where(
        payment_methods.c.id == method_id, payment_methods.c.detached_at.is_(None)
    )
    found = (await session.scalars(statement)).one_or_none()
    if found is None:
        raise PaymentMethodNotFound("There is no such payment method.")
    return PaymentMethodView.of(found)
