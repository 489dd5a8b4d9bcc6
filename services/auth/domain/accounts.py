"""Accounts, which are billed, and the people who belong to them."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

from services.auth.domain.roles import MANAGERS, Role
from shared.errors import Conflict, Forbidden, Invalid, NotFound
from shared.events.auth import AccountClosed, AccountRegistered, AccountUpdated
from shared.ids import new_id
from shared.zones import time_zones

INVITATION_LIFE = timedelta(days=7)


class AccountStatus(StrEnum):
    OPEN = "open"
    CLOSED = "closed"


class AccountNotFound(NotFound):
    """There is no such account, or the token is for another one."""

    code = "account-not-found"


class AccountIsClosed(Conflict):
    """The account ended and takes no changes."""

    code = "account-closed"


class UnknownTimeZone(Invalid):
    code = "unknown-time-zone"


class MemberNotFound(NotFound):
    code = "member-not-found"


class AlreadyMember(Conflict):
    """Whoever is invited belongs to the account already."""

    code = "already-member"


class LastOwner(Conflict):
    """The account would be without an owner: make somebody else one first."""

    code = "last-owner"


class RoleTooWeak(Forbidden):
    """This takes another role in the account."""

    code = "role-too-weak"


class InvitationNotFound(NotFound):
    code = "invitation-not-found"


class InvitationOver(Conflict):
    """The invitation was used, withdrawn or is too old."""

    code = "invitation-over"


class UnknownCountry(Invalid):
    code = "unknown-country"


class ExternalIdTaken(Conflict):
    """Another account has this `external_id`; `existing_id` says which."""

    code = "external-id-taken"

    def __init__(self, account_id: UUID) -> None:
        super().__init__(
            f"The account {account_id} has this external_id already.", field="external_id"
        )
        self.existing_id = account_id


#: ISO 3166-1 alpha-2, as assigned.
COUNTRIES = frozenset((
    "AD", "AE", "AF", "AG", "AI", "AL", "AM", "AO", "AQ", "AR", "AS", "AT", "AU", "AW", "AX",
    "AZ", "BA", "BB", "BD", "BE", "BF", "BG", "BH", "BI", "BJ", "BL", "BM", "BN", "BO", "BQ",
    "BR", "BS", "BT", "BV", "BW", "BY", "BZ", "CA", "CC", "CD", "CF", "CG", "CH", "CI", "CK",
    "CL", "CM", "CN", "CO", "CR", "CU", "CV", "CW", "CX", "CY", "CZ", "DE", "DJ", "DK", "DM",
    "DO", "DZ", "EC", "EE", "EG", "EH", "ER", "ES", "ET", "FI", "FJ", "FK", "FM", "FO", "FR",
    "GA", "GB", "GD", "GE", "GF", "GG", "GH", "GI", "GL", "GM", "GN", "GP", "GQ", "GR", "GS",
    "GT", "GU", "GW", "GY", "HK", "HM", "HN", "HR", "HT", "HU", "ID", "IE", "IL", "IM", "IN",
    "IO", "IQ", "IR", "IS", "IT", "JE", "JM", "JO", "JP", "KE", "KG", "KH", "KI", "KM", "KN",
    "KP", "KR", "KW", "KY", "KZ", "LA", "LB", "LC", "LI", "LK", "LR", "LS", "LT", "LU", "LV",
    "LY", "MA", "MC", "MD", "ME", "MF", "MG", "MH", "MK", "ML", "MM", "MN", "MO", "MP", "MQ",
    "MR", "MS", "MT", "MU", "MV", "MW", "MX", "MY", "MZ", "NA", "NC", "NE", "NF", "NG", "NI",
    "NL", "NO", "NP", "NR", "NU", "NZ", "OM", "PA", "PE", "PF", "PG", "PH", "PK", "PL", "PM",
    "PN", "PR", "PS", "PT", "PW", "PY", "QA", "RE", "RO", "RS", "RU", "RW", "SA", "SB", "SC",
    "SD", "SE", "SG", "SH", "SI", "SJ", "SK", "SL", "SM", "SN", "SO", "SR", "SS", "ST", "SV",
    "SX", "SY", "SZ", "TC", "TD", "TF", "TG", "TH", "TJ", "TK", "TL", "TM", "TN", "TO", "TR",
    "TT", "TV", "TW", "TZ", "UA", "UG", "UM", "US", "UY", "UZ", "VA", "VC", "VE", "VG", "VI",
    "VN", "VU", "WF", "WS", "YE", "YT", "ZA", "ZM", "ZW",
))  # fmt: skip


def checked_country(code: str) -> str:
    """An ISO 3166 country code, or a refusal: a tax rate hangs on it."""
    if code not in COUNTRIES:
        raise UnknownCountry(f"{code!r} is not an ISO 3166 country code.", field="country")
    return code


def checked_zone(name: str) -> str:
    """The name of an IANA time zone, or a refusal."""
    if name not in time_zones():
        raise UnknownTimeZone(f"{name!r} is not an IANA time zone.", field="time_zone")
    return ZoneInfo(name).key


class AccountChanges(TypedDict, total=False):
    """What of an account is to be different; what is not there stays."""

    name: str
    country: str
    time_zone: str
    email: str | None
    external_id: str | None
    metadata: dict[str, str]
    language: str | None
    currency: str | None


class _Settings(TypedDict):
    country: str
    time_zone: str
    language: str | None
    currency: str | None


class _Facts(TypedDict):
    occurred_at: datetime
    account_id: UUID
    sequence: int


@dataclass(eq=False, kw_only=True)
class Account:
    """Who pays the operator, and the boundary of every access check."""

    id: UUID
    #: Often a person's name, so it is wiped when the account closes.
    name: str | None
    country: str
    time_zone: str
    #: Where mails about money go while nobody is there to get them. Wiped with the name.
    email: str | None = None
    #: What the operator's own system calls it; unique.
    external_id: str | None = None
    #: The operator's own notes, which nothing here reads. Wiped with the name.
    metadata: dict[str, str] = field(default_factory=dict)
    #: What documents are written in (ISO 639-1), and what it usually pays in (ISO 4217).
    language: str | None = None
    currency: str | None = None
    status: AccountStatus = AccountStatus.OPEN
    created_at: datetime
    closed_at: datetime | None = None
    version: int = 0

    @classmethod
    def register(
        cls,
        *,
        name: str | None,
        country: str,
        time_zone: str,
        at: datetime,
        account_id: UUID | None = None,
    ) -> tuple["Account", AccountRegistered]:
        account = cls(
            id=account_id or new_id(),
            name=name,
            country=checked_country(country),
            time_zone=checked_zone(time_zone),
            created_at=at,
        )
        return account, AccountRegistered(**account._next(at), **account._settings())

    @classmethod
    def of_operator(
        cls,
        *,
        name: str,
        country: str,
        time_zone: str,
        email: str | None = None,
        external_id: str | None = None,
        metadata: dict[str, str] | None = None,
        language: str | None = None,
        currency: str | None = None,
        at: datetime,
    ) -> tuple["Account", AccountRegistered]:
        """An account that the operator's backend makes; nobody has to be in it."""
        account = cls(
            id=new_id(),
            name=name,
            country=checked_country(country),
            time_zone=checked_zone(time_zone),
            email=email,
            external_id=external_id,
            metadata=metadata or {},
            language=language,
            currency=currency,
            created_at=at,
        )
        return account, AccountRegistered(**account._next(at), **account._settings())

    def update(self, changes: AccountChanges, *, at: datetime) -> AccountUpdated | None:
        """Change what is there. Nothing new is no event, and no version."""
        self._require_open()
        if "country" in changes:
            checked_country(changes["country"])
        if "time_zone" in changes:
            checked_zone(changes["time_zone"])
        new = {name: value for name, value in changes.items() if getattr(self, name) != value}
        if not new:
            return None
        for name, value in new.items():
            setattr(self, name, value)
        return AccountUpdated(**self._next(at), **self._settings())

    def close(self, *, at: datetime) -> AccountClosed:
        """End it. What it subscribed to is ended by the services that hear of this."""
        self._require_open()
        self.status = AccountStatus.CLOSED
        self.closed_at = at
        self.name = self.email = None
        self.metadata = {}
        return AccountClosed(**self._next(at))

    def _require_open(self) -> None:
        if self.status is AccountStatus.CLOSED:
            raise AccountIsClosed("The account is closed.")

    def _settings(self) -> _Settings:
        """What of it other services need. No personal data: the name and the address stay here."""
        return {
            "country": self.country,
            "time_zone": self.time_zone,
            "language": self.language,
            "currency": self.currency,
        }

    def _next(self, at: datetime) -> _Facts:
        self.version += 1
        return {"occurred_at": at, "account_id": self.id, "sequence": self.version}


@dataclass(eq=False, kw_only=True)
class Membership:
    """A user's place in an account."""

    id: UUID
    account_id: UUID
    user_id: UUID
    role: Role
    created_at: datetime
    version: int = 1

    def change_role(self, role: Role, *, by: Role) -> None:
        """Owners are made and unmade by owners alone."""
        require_manager(by)
        if Role.OWNER in (self.role, role) and by is not Role.OWNER:
            raise RoleTooWeak("Only an owner can make or unmake an owner.")
        self.role = role
        self.version += 1

    def may_be_removed(self, *, by: Role, by_themself: bool) -> None:
        if by_themself:
            return
        require_manager(by)
        if self.role is Role.OWNER and by is not Role.OWNER:
            raise RoleTooWeak("Only an owner can remove an owner.")


def require_manager(role: Role | None) -> None:
    if role not in MANAGERS:
        raise RoleTooWeak("This takes the role owner or admin in the account.")


class InvitationStatus(StrEnum):
    PENDING = "pending"
    ACCEPTED = "accepted"
    WITHDRAWN = "withdrawn"
    LAPSED = "lapsed"


@dataclass(eq=False, kw_only=True)
class Invitation:
    """An offer to join an account, made to an address. Whoever holds the mail may take it."""

    id: UUID
    account_id: UUID
    #: Wiped when the invitation is over: it is somebody's address.
    email: str | None
    role: Role
    token_hash: bytes
    #: Nobody: the operator's backend did.
    invited_by: UUID | None
    status: InvitationStatus = InvitationStatus.PENDING
    expires_at: datetime
    created_at: datetime

    @classmethod
    def offer(
        cls,
        *,
        account_id: UUID,
        email: str,
        role: Role,
        token_hash: bytes,
        invited_by: UUID | None,
        by: Role | None,
        at: datetime,
    ) -> "Invitation":
        require_manager(by)
        if role is Role.OWNER and by is not Role.OWNER:
            raise RoleTooWeak("Only an owner can invite an owner.")
        return cls(
            id=new_id(),
            account_id=account_id,
            email=email,
            role=role,
            token_hash=token_hash,
            invited_by=invited_by,
            expires_at=at + INVITATION_LIFE,
            created_at=at,
        )

    def accept(self, *, at: datetime) -> str:
        """Take the offer, once. Gives the address that the mail went to."""
        if self.status is not InvitationStatus.PENDING or at >= self.expires_at or not self.email:
            raise InvitationOver("The invitation was used, withdrawn or is too old.")
        email, self.email = self.email, None
        self.status = InvitationStatus.ACCEPTED
        return email

    def withdraw(self) -> None:
        if self.status is not InvitationStatus.PENDING:
            raise InvitationOver("The invitation is over already.")
        self.status = InvitationStatus.WITHDRAWN
        self.email = None
