"""Token balances: a ledger of grants with expiry, spent soonest-to-expire first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from shared.errors import Conflict, Invalid, NotFound
from shared.events.subscriptions import Charge, TokensOrdered
from shared.ids import new_id
from shared.money import Money


class OrderStatus(StrEnum):
    PENDING = "pending"  # not paid yet
    GRANTED = "granted"
    REFUNDED = "refunded"
    CANCELED = "canceled"


class TokensShort(Conflict):
    code = "not-enough-tokens"


class TokenAmountInvalid(Invalid):
    code = "token-amount-invalid"


class TokenOrderNotFound(NotFound):
    code = "token-order-not-found"


class TokensUsed(Conflict):
    code = "tokens-used"


class DebitKeyReused(Conflict):
    code = "debit-key-reused"


@dataclass(eq=False, kw_only=True)
class TokenOrder:
    """A bundle that an account bought; its tokens come when it is paid."""

    id: UUID
    account_id: UUID
    bundle_id: UUID
    tokens: int
    amount: int
    currency: str
    expires_after_days: int | None
    status: OrderStatus = OrderStatus.PENDING
    version: int = 0
    created_at: datetime

    def place(
        self, *, name: str, tax_category: str, payment_method_id: UUID | None, at: datetime
    ) -> TokensOrdered:
        """Order it: invoicing bills it, and what is paid is granted."""
        self.version += 1
        text = f"{name}: {self.tokens} tokens"
        charge = Charge(
            id=new_id(),
            kind="tokens",
            description=text,
            quantity="1",
            unit_amount=str(self.amount),
            amount=self.amount,
            currency=self.currency,
            period_start=at,
            period_end=at,
            tax_category=tax_category,
            why={"text": f"{text}: {Money(self.amount, self.currency)}.", "quantity": "1"},
        )
        return TokensOrdered(
            occurred_at=at,
            account_id=self.account_id,
            sequence=self.version,
            order_id=self.id,
            bundle_id=self.bundle_id,
            tokens=self.tokens,
            currency=self.currency,
            charges=(charge,),
            payment_method_id=payment_method_id,
        )


@dataclass(eq=False, kw_only=True)
class TokenGrant:
    """Tokens that came in together and expire together."""

    id: UUID
    account_id: UUID
    order_id: UUID | None
    granted: int
    remaining: int
    expires_at: datetime | None
    created_at: datetime

    @property
    def order(self) -> tuple[bool, datetime, UUID]:
        """Soonest to expire first, then the oldest."""
        expires = self.expires_at
        return (expires is None, expires or self.created_at, self.id)


def spend(grants: Sequence[TokenGrant], amount: int, *, now: datetime) -> list[tuple[UUID, int]]:
    """Take `amount` from the grants, soonest to expire first: all of it, or nothing."""
    if amount <= 0:
        raise TokenAmountInvalid("Debit at least one token.", field="amount")
    usable = [grant for grant in grants if grant.expires_at is None or grant.expires_at > now]
    balance = sum(grant.remaining for grant in usable)
    if balance < amount:
        raise TokensShort(f"The balance is {balance}, and {amount} were asked for.")
    taken: list[tuple[UUID, int]] = []
    for grant in sorted(usable, key=lambda grant: grant.order):
        part = min(grant.remaining, amount)
        if part:
            grant.remaining -= part
            amount -= part
            taken.append((grant.id, part))
    return taken
