"""Reading for an answer: no locks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, or_, select

from services.auth import tables
from services.auth.domain.accounts import Account, AccountNotFound, Invitation, Membership
from services.auth.domain.api_keys import ApiKey, Maker
from services.auth.domain.bearer import membership_claim
from services.auth.domain.mail import Mail, SettledInvoice
from services.auth.domain.mfa import Totp
from services.auth.domain.operator_keys import OperatorKey, OperatorKeyNotFound, OperatorSecret
from services.auth.domain.projects import Project, ProjectNotFound
from services.auth.domain.roles import StaffRole
from services.auth.domain.sessions import KnownDevice, Session
from services.auth.domain.users import PersonalDetails, User, UserNotFound, UserStatus, address_key
from shared.db import UnitOfWork
from shared.pages import PageRequest
from shared.revocations import News, Revoked


async def user_with_details(uow: UnitOfWork, user_id: UUID) -> tuple[User, PersonalDetails]:
    statement = (
        select(User, PersonalDetails)
        .join(PersonalDetails, tables.personal_details.c.user_id == tables.users.c.id)
        .where(tables.users.c.id == user_id)
    )
    row = (await uow.session.execute(statement)).one_or_none()
    if row is None:
        raise UserNotFound("There is no such user.")
    return row[0], row[1]


async def has_second_factor(uow: UnitOfWork, user_id: UUID) -> bool:
    statement = select(Totp).where(
        tables.totps.c.user_id == user_id, tables.totps.c.confirmed_at.is_not(None)
    )
    return (await uow.session.scalars(statement)).one_or_none() is not None


def _my_accounts(user_id: UUID) -> Any:
    return (
        select(Account, Membership)
        .join(Membership, tables.memberships.c.account_id == tables.accounts.c.id)
        .where(tables.memberships.c.user_id == user_id)
    )


async def account(uow: UnitOfWork, account_id: UUID) -> Account:
    found = await uow.session.get(Account, account_id)
    if found is None:
        raise AccountNotFound("There is no such account.")
    return found


async def members(uow: UnitOfWork, account_id: UUID, page: PageRequest) -> Sequence[Row[Any]]:
    statement: Any = (
        select(Membership, PersonalDetails)
        .outerjoin(
            PersonalDetails, tables.personal_details.c.user_id == tables.memberships.c.user_id
        )
        .where(tables.memberships.c.account_id == account_id)
    )
    rows: Sequence[Row[Any]] = (
        await uow.session.execute(page.narrow(statement, tables.memberships.c.id))
    ).all()
    return rows


async def invitations(uow: UnitOfWork, account_id: UUID, page: PageRequest) -> Sequence[Invitation]:
    statement = select(Invitation).where(tables.invitations.c.account_id == account_id)
    return (await uow.session.scalars(page.narrow(statement, tables.invitations.c.id))).all()


async def api_keys(uow: UnitOfWork, account_id: UUID, page: PageRequest) -> Sequence[ApiKey]:
    statement = select(ApiKey).where(tables.api_keys.c.account_id == account_id)
    return (await uow.session.scalars(page.narrow(statement, tables.api_keys.c.id))).all()


async def operator_keys(
    uow: UnitOfWork, page: PageRequest
) -> tuple[Sequence[OperatorKey], dict[UUID, list[OperatorSecret]]]:
    """The operator's keys, and the secrets of each."""
    statement = page.narrow(select(OperatorKey), tables.operator_keys.c.id)
    keys = (await uow.session.scalars(statement)).all()
    return keys, await _secrets_of(uow, [key.id for key in keys])


async def operator_key(uow: UnitOfWork, key_id: UUID) -> tuple[OperatorKey, list[OperatorSecret]]:
    key = await uow.session.get(OperatorKey, key_id)
    if key is None:
        raise OperatorKeyNotFound("There is no such key.")
    return key, (await _secrets_of(uow, [key_id]))[key_id]


async def _secrets_of(uow: UnitOfWork, key_ids: Sequence[UUID]) -> dict[UUID, list[OperatorSecret]]:
    statement = select(OperatorSecret).where(tables.operator_secrets.c.key_id.in_(key_ids))
    secrets: dict[UUID, list[OperatorSecret]] = {key_id: [] for key_id in key_ids}
    for secret in await uow.session.scalars(statement):
        secrets[secret.key_id].append(secret)
    return secrets


async def projects(
    uow: UnitOfWork, account_id: UUID, page: PageRequest, *, status: str | None
) -> Sequence[Project]:
    statement = select(Project).where(tables.projects.c.account_id == account_id)
    if status is not None:
        statement = statement.where(tables.projects.c.status == status)
    return (await uow.session.scalars(page.narrow(statement, tables.projects.c.id))).all()


async def project(uow: UnitOfWork, project_id: UUID) -> Project:
    statement = select(Project).where(tables.projects.c.id == project_id)
    found = (await uow.session.scalars(statement)).one_or_none()
    if found is None:
        raise ProjectNotFound("There is no such project.")
    return found


async def living_sessions(
    uow: UnitOfWork, user_id: UUID, page: PageRequest, *, now: datetime
) -> Sequence[Session]:
    statement = select(Session).where(
        tables.sessions.c.user_id == user_id,
        tables.sessions.c.revoked_at.is_(None),
        tables.sessions.c.expires_at > now,
    )
    return (await uow.session.scalars(page.narrow(statement, tables.sessions.c.id))).all()


REVOCATIONS = """
SELECT position, subject::text, below, extract(epoch FROM until)::bigint AS until
  FROM auth.revocations
 WHERE position > $1 AND until > clock_timestamp()
 ORDER BY position
 LIMIT $2
"""


async def revocations(uow: UnitOfWork, *, after: int, most: int | None = None) -> News:
    """What was revoked after a position and may still matter: all of it, or the first `most`."""
    rows = await uow.fetch(REVOCATIONS, after, most)
    return News([Revoked(*row) for row in rows], rows[-1]["position"] if rows else after)


async def maker_of(uow: UnitOfWork, key: ApiKey) -> Maker:
    """What became of the person who made a key: what the key may do depends on it."""
    user, place = tables.users.c, tables.memberships.c
    statement = (
        select(user.status, user.staff_role, place.role, place.id, place.version)
        .outerjoin(
            tables.memberships,
            (place.user_id == user.id) & (place.account_id == key.account_id),
        )
        .where(user.id == key.created_by)
    )
    row = (await uow.session.execute(statement)).one()
    return Maker(
        is_active=row.status is UserStatus.ACTIVE,
        staff=row.staff_role,
        role=row.role,
        membership=membership_claim(row.id, row.version) if row.id else None,
    )


async def users(
    uow: UnitOfWork,
    page: PageRequest,
    *,
    beginning: str | None,
    status: UserStatus | None,
    staff: bool | None,
) -> Sequence[Row[Any]]:
    statement: Any = select(User, PersonalDetails).outerjoin(
        PersonalDetails, tables.personal_details.c.user_id == tables.users.c.id
    )
    if beginning:
        statement = statement.where(
            tables.personal_details.c.address_key.startswith(beginning.lower(), autoescape=True)
        )
    if status is not None:
        statement = statement.where(tables.users.c.status == status)
    if staff is not None:
        role = tables.users.c.staff_role
        statement = statement.where(role.is_not(None) if staff else role.is_(None))
    rows: Sequence[Row[Any]] = (
        await uow.session.execute(page.narrow(statement, tables.users.c.id))
    ).all()
    return rows


async def audit_log(
    uow: UnitOfWork,
    page: PageRequest,
    *,
    account_id: UUID | None,
    subject: str | None,
    actor: str | None,
) -> Sequence[Row[Any]]:
    log = uow.platform.audit_log
    statement = select(log)
    if account_id is not None:
        statement = statement.where(log.c.account_id == account_id)
    if subject is not None:
        statement = statement.where(log.c.subject == subject)
    if actor is not None:
        statement = statement.where(log.c.actor == actor)
    rows: Sequence[Row[Any]] = (await uow.session.execute(page.narrow(statement, log.c.id))).all()
    return rows


async def has_paid(uow: UnitOfWork, account_id: UUID) -> bool:
    """Whether an account ever paid an invoice over more than nothing."""
    statement = select(SettledInvoice).where(tables.settled_invoices.c.account_id == account_id)
    return (await uow.session.scalars(statement.limit(1))).one_or_none() is not None


async def everything_about(uow: UnitOfWork, user_id: UUID) -> dict[str, Sequence[Any]]:
    """All rows about one person, for the export that the law gives them (GDPR, Art. 15)."""
    log = uow.platform.audit_log
    who = str(user_id)
    return {
        "accounts": (await uow.session.execute(_my_accounts(user_id))).all(),
        "sessions": (
            await uow.session.scalars(select(Session).where(tables.sessions.c.user_id == user_id))
        ).all(),
        "known_devices": (
            await uow.session.scalars(
                select(KnownDevice).where(tables.known_devices.c.user_id == user_id)
            )
        ).all(),
        "api_keys": (
            await uow.session.scalars(select(ApiKey).where(tables.api_keys.c.created_by == user_id))
        ).all(),
        "mails": (
            await uow.session.scalars(select(Mail).where(tables.mails.c.user_id == user_id))
        ).all(),
        "audit_log": (
            await uow.session.execute(
                select(log)
                .where(or_(log.c.actor == f"user:{who}", log.c.subject == who))
                .order_by(log.c.id)
            )
        ).all(),
    }


async def has_staff_at(uow: UnitOfWork, address: str) -> bool:
    """Whether the user with this address is staff and can come in."""
    statement = (
        select(User)
        .join(PersonalDetails, tables.personal_details.c.user_id == tables.users.c.id)
        .where(
            tables.personal_details.c.address_key == address_key(address),
            tables.users.c.staff_role.is_not(None),
            tables.users.c.status == UserStatus.ACTIVE,
        )
    )
    return (await uow.session.scalars(statement)).one_or_none() is not None


async def is_staffed(uow: UnitOfWork) -> bool:
    """Whether anybody can administer this deployment."""
    statement = select(User).where(tables.users.c.staff_role == StaffRole.ADMIN).limit(1)
    return (await uow.session.scalars(statement)).one_or_none() is not None
