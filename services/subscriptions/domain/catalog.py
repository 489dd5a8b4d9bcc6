"""What stands beside plans in the catalog: products, add-ons, features, meters, token bundles."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.errors import Conflict, Invalid, NotFound
from shared.money import require_billable


class FeatureType(StrEnum):
    BOOLEAN = "boolean"  # has it or has it not
    LIMIT = "limit"  # so many, counted by whoever asks
    METERED = "metered"  # so many per period, counted by a meter


class ProductNotFound(NotFound):
    code = "product-not-found"


class AddonNotFound(NotFound):
    code = "addon-not-found"


class FeatureNotFound(NotFound):
    code = "feature-not-found"


class MeterNotFound(NotFound):
    code = "meter-not-found"


class BundleNotFound(NotFound):
    code = "bundle-not-found"


class CodeTaken(Conflict):
    code = "code-taken"


class NotOnSale(Conflict):
    code = "not-on-sale"


class FeatureInvalid(Invalid):
    code = "feature-invalid"


class Editable:
    """Something of the catalog that is edited where that rewrites nothing that was agreed."""

    id: UUID
    revision: int

    def edit(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Set what differs; returns what that was before. Without a difference nothing happens."""
        before = {
            name: getattr(self, name)
            for name, value in changes.items()
            if getattr(self, name) != value
        }
        for name in before:
            setattr(self, name, changes[name])
        if before:
            self.check_edit()
            self.revision += 1
        return before

    def check_edit(self) -> None:
        """Refuse what cannot be edited so."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A feature that a plan or an add-on gives; `limit` None: without limit."""

    feature: str
    limit: int | None = None


@dataclass(eq=False, kw_only=True)
class Product(Editable):
    """What several plans are about."""

    id: UUID
    code: str
    name: str
    description: str = ""
    active: bool = True
    revision: int = 1
    created_at: datetime


@dataclass(eq=False, kw_only=True)
class Addon(Editable):
    """Sold beside a plan, with prices of its own."""

    id: UUID
    code: str
    name: str
    description: str = ""
    features: tuple[Grant, ...] = ()
    active: bool = True
    revision: int = 1
    created_at: datetime


@dataclass(eq=False, kw_only=True)
class Meter(Editable):
    """What usage is counted of. Late events count for `grace_hours` after their period."""

    id: UUID
    code: str
    name: str
    grace_hours: int = 72
    #: What one of it is called on lines, such as `GB`.
    unit: str = ""
    active: bool = True
    revision: int = 1
    created_at: datetime


@dataclass(eq=False, kw_only=True)
class Feature(Editable):
    """Something that an account may or may not do."""

    id: UUID
    code: str
    name: str
    type: FeatureType
    meter_id: UUID | None = None
    revision: int = 1
    created_at: datetime

    def __post_init__(self) -> None:
        if (self.type is FeatureType.METERED) != (self.meter_id is not None):
            raise FeatureInvalid(
                "A metered feature, and no other, names its meter.", field="meter_id"
            )


@dataclass(eq=False, kw_only=True)
class Bundle(Editable):
    """So many tokens for an amount; unused ones expire."""

    id: UUID
    code: str
    name: str
    tokens: int
    amount: int
    currency: str
    tax_category: str = "standard"
    expires_after_days: int | None = None
    active: bool = True
    revision: int = 1
    created_at: datetime

    def __post_init__(self) -> None:
        require_billable(self.amount, field="amount")
