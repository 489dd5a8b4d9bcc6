"""Money that came for an invoice, by a provider or by hand."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class Means(StrEnum):
    """How the money came."""

    PROVIDER = "provider"
    OFFLINE = "offline"


@dataclass(eq=False, kw_only=True)
class ReceivedPayment:
    """One receipt; its id is the payment's, so that the same money counts once.

    `applied` went to the invoice, the rest of `amount` to the account's credit.
    """

    id: UUID
    account_id: UUID
    invoice_id: UUID
    means: Means
    amount: int
    applied: int
    received_at: datetime
    reference: str | None = None
