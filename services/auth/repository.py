"""Loading for a change: locked, in the caller's scope. And the unit of work that holds it all."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from services.auth import tables
from services.auth.domain.accounts import (
    Account,
    AccountNotFound,
    ExternalIdTaken,
    Invitation,
    InvitationNotFound,
    InvitationStatus,
    MemberNotFound,
    Membership,
)
from services.auth.domain.api_keys import ApiKey, ApiKeyNotFound, KeyEnd
from services.auth.domain.keys import SigningKey
from services.auth.domain.mail import Mail, MailStatus
from services.auth.domain.mfa import Totp
from services.auth.domain.operator_keys import OperatorKey, OperatorKeyNotFound, OperatorSecret
from services.auth.domain.projects import Project, ProjectNotFound
from services.auth.domain.registrations import COMPARED, Registration
from services.auth.domain.revocations import KEPT_FOR, Revocation, RevokedKind
from services.auth.domain.roles import Role
from services.auth.domain.sessions import (
    KnownDevice,
    MailedToken,
    Purpose,
    RefreshToken,
    Session,
    SessionNotFound,
    TokenRefused,
    fingerprint,
)
from services.auth.domain.users import (
    PersonalDetails,
    User,
    UserNotFound,
    UserStatus,
    address_key,
)
from shared.clock import utc_now
from shared.db import Platform, Scope, UnitOfWork

#: One worker at a time makes or rotates keys.
KEYS_LOCK = 7_310_575_184_661_021
#: Keeps the locks of external ids apart from others.
EXTERNAL_IDS = 4_401_973_220_148_853
#: Held from the last statement of a transaction that revokes to its commit, so that positions
#: follow the order of commits: who has read up to one has missed none before it.
REVOCATIONS_LOCK = 7_310_575_184_661_022

#: Notes that what a token stands on is over.
Revoke = Callable[[RevokedKind, UUID], None]


class Users:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, user: User, details: PersonalDetails) -> None:
        self._session.add(user)
        await self._session.flush()  # what refers to it comes after it
        self._session.add(details)
        await self._session.flush()

    async def get(self, user_id: UUID) -> User:
        user = await self._session.get(User, user_id, with_for_update=True)
        if user is None or user.status is UserStatus.ERASED:
            raise UserNotFound("There is no such user.")
        return user

    async def find(self, user_id: UUID) -> User | None:
        return await self._session.get(User, user_id, with_for_update=True)

    async def details(self, user_id: UUID) -> PersonalDetails | None:
        return await self._session.get(PersonalDetails, user_id)

    async def find_by_address(self, email: str) -> User | None:
        statement = (
            select(User)
            .join(PersonalDetails, tables.personal_details.c.user_id == tables.users.c.id)
            .where(tables.personal_details.c.address_key == address_key(email))
            .with_for_update(of=User)
        )
        return (await self._session.scalars(statement)).one_or_none()

    async def lock_address(self, key: str) -> None:
        """Of two that prove one address at once, the second one sees what the first one did."""
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], signed=True)
        await self._session.execute(select(func.pg_advisory_xact_lock(number)))

    async def unconfirmed(self, email: str) -> tuple[UUID, str | None] | None:
        """Who signed up with the address while an earlier release ran, and their hash. No lock."""
        statement = (
            select(tables.users.c.id, tables.users.c.password_hash)
            .join(tables.personal_details)
            .where(
                tables.personal_details.c.address_key == address_key(email),
                tables.users.c.status == UserStatus.PENDING,
            )
        )
        row = (await self._session.execute(statement)).one_or_none()
        return None if row is None else (row.id, row.password_hash)

    async def password_of(self, email: str) -> tuple[UUID, str | None] | None:
        """Whose address it is and their hash. No lock: hashing takes its time."""
        statement = (
            select(tables.users.c.id, tables.users.c.password_hash)
            .join(tables.personal_details)
            .where(tables.personal_details.c.address_key == address_key(email))
        )
        row = (await self._session.execute(statement)).one_or_none()
        return None if row is None else (row.id, row.password_hash)


class Registrations:
    """Sign-ups that wait for their address to be proven. Never locked: they do not change."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, registration: Registration) -> None:
        self._session.add(registration)

    async def with_address(self, email: str, *, at: datetime) -> Sequence[Registration]:
        """The newest that are still good, newest first: those that a password is compared with."""
        statement = (
            select(Registration)
            .where(
                tables.registrations.c.address_key == address_key(email),
                tables.registrations.c.expires_at > at,
            )
            .order_by(tables.registrations.c.id.desc())
            .limit(COMPARED)
        )
        return (await self._session.scalars(statement)).all()

    async def find(self, registration_id: UUID) -> Registration | None:
        return await self._session.get(Registration, registration_id)

    async def drop(self, key: str) -> None:
        """Forget what anybody signed up with this address."""
        await self._session.execute(
            delete(Registration).where(tables.registrations.c.address_key == key)
        )


class Accounts:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, account: Account) -> None:
        self._session.add(account)
        await self._session.flush()

    async def get(self, account_id: UUID) -> Account:
        account = await self._session.get(Account, account_id, with_for_update=True)
        if account is None:
            raise AccountNotFound("There is no such account.")
        return account

    async def require_free(self, external_id: str) -> None:
        """Hold it until this transaction ends. Raises `ExternalIdTaken` where it is somebody's.

        Of two who want it at once the second waits, and is told whose it is.
        """
        await self._session.execute(
            select(func.pg_advisory_xact_lock(func.hashtextextended(external_id, EXTERNAL_IDS)))
        )
        holder = await self._session.scalar(
            select(tables.accounts.c.id).where(tables.accounts.c.external_id == external_id)
        )
        if holder is not None:
            raise ExternalIdTaken(holder)


class Memberships:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, membership: Membership) -> None:
        self._session.add(membership)

    async def find(self, account_id: UUID, user_id: UUID) -> Membership | None:
        statement = select(Membership).where(
            tables.memberships.c.account_id == account_id,
            tables.memberships.c.user_id == user_id,
        )
        return (await self._session.scalars(statement)).one_or_none()

    async def get(self, account_id: UUID, user_id: UUID) -> Membership:
        statement = (
            select(Membership)
            .where(
                tables.memberships.c.account_id == account_id,
                tables.memberships.c.user_id == user_id,
            )
            .with_for_update()
        )
        found = (await self._session.scalars(statement)).one_or_none()
        if found is None:
            raise MemberNotFound("There is no such member in the account.")
        return found

    async def list_of_user(self, user_id: UUID) -> Sequence[Membership]:
        """Oldest first: the first is where they log in to by default."""
        statement = (
            select(Membership)
            .where(tables.memberships.c.user_id == user_id)
            .order_by(tables.memberships.c.id)
        )
        return (await self._session.scalars(statement)).all()

    async def list_of_account(
        self, account_id: UUID, *, roles: tuple[Role, ...] | None = None
    ) -> Sequence[Membership]:
        """Oldest first."""
        statement = (
            select(Membership)
            .where(tables.memberships.c.account_id == account_id)
            .order_by(tables.memberships.c.id)
        )
        if roles is not None:
            statement = statement.where(tables.memberships.c.role.in_(roles))
        return (await self._session.scalars(statement)).all()

    async def remove(self, membership: Membership) -> None:
        await self._session.delete(membership)


class Invitations:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, invitation: Invitation) -> None:
        self._session.add(invitation)

    async def get(self, invitation_id: UUID) -> Invitation:
        statement = (
            select(Invitation).where(tables.invitations.c.id == invitation_id).with_for_update()
        )
        found = (await self._session.scalars(statement)).one_or_none()
        if found is None:
            raise InvitationNotFound("There is no such invitation.")
        return found

    async def by_token(self, token: str) -> Invitation:
        statement = (
            select(Invitation)
            .where(tables.invitations.c.token_hash == fingerprint(token))
            .with_for_update()
        )
        found = (await self._session.scalars(statement)).one_or_none()
        if found is None:
            raise TokenRefused
        return found

    async def erase(self, key: str) -> None:
        """Withdraw what was offered to an address that is to be forgotten."""
        await self._session.execute(
            update(Invitation)
            .where(func.lower(tables.invitations.c.email) == key)
            .values(status=InvitationStatus.WITHDRAWN, email=None)
        )


class Projects:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, project: Project) -> None:
        self._session.add(project)

    async def get(self, project_id: UUID) -> Project:
        statement = select(Project).where(tables.projects.c.id == project_id).with_for_update()
        found = (await self._session.scalars(statement)).one_or_none()
        if found is None:
            raise ProjectNotFound("There is no such project.")
        return found


class Sessions:
    def __init__(self, session: AsyncSession, revoke: Revoke) -> None:
        self._session = session
        self._revoke = revoke

    async def add(self, opened: Session, token: RefreshToken) -> None:
        self._session.add(opened)
        await self._session.flush()
        self._session.add(token)

    def add_token(self, token: RefreshToken) -> None:
        self._session.add(token)

    async def get(self, session_id: UUID, *, user_id: UUID) -> Session:
        found = await self._session.get(Session, session_id, with_for_update=True)
        if found is None or found.user_id != user_id:
            raise SessionNotFound("There is no such session.")
        return found

    async def owner_of(self, secret: str) -> UUID | None:
        """Whose refresh token this is. No lock: users are locked before their sessions."""
        statement = (
            select(tables.sessions.c.user_id)
            .join(tables.refresh_tokens)
            .where(tables.refresh_tokens.c.token_hash == fingerprint(secret))
        )
        return await self._session.scalar(statement)

    async def find_by_token(self, secret: str) -> tuple[Session, RefreshToken] | None:
        """The session and the token, both locked: of two uses at once, one comes second."""
        token = await self._session.get(RefreshToken, fingerprint(secret), with_for_update=True)
        if token is None:
            return None
        session = await self._session.get(Session, token.session_id, with_for_update=True)
        return (session, token) if session is not None else None

    def end(self, session: Session, *, because: str, at: datetime) -> None:
        """End one, and every access token of it."""
        session.revoke(because=because, at=at)
        self._revoke(RevokedKind.SESSION, session.id)

    async def revoke_all(
        self,
        user_id: UUID,
        *,
        because: str,
        at: datetime,
        account_id: UUID | None = None,
        but: UUID | None = None,
    ) -> None:
        """End every session of a user, or those into one account, and their access tokens."""
        mine = tables.sessions.c.user_id == user_id
        if account_id is not None:
            mine &= tables.sessions.c.signed_in_to == account_id
        if but is not None:
            mine &= tables.sessions.c.id != but
        await self._end_all(mine, because=because, at=at)

    async def revoke_into(self, account_id: UUID, *, because: str, at: datetime) -> None:
        """End everybody's sessions into an account, and their access tokens."""
        await self._end_all(tables.sessions.c.signed_in_to == account_id, because=because, at=at)

    async def _end_all(self, which: ColumnElement[bool], *, because: str, at: datetime) -> None:
        statement = (
            update(Session)
            .where(which, tables.sessions.c.revoked_at.is_(None))
            .values(revoked_at=at, revoked_because=because)
            .returning(tables.sessions.c.id, tables.sessions.c.last_used_at)
        )
        alive_since = utc_now() - KEPT_FOR
        for row in (await self._session.execute(statement)).all():
            if row.last_used_at > alive_since:  # of others, no access token is alive
                self._revoke(RevokedKind.SESSION, row.id)


class MailedTokens:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, token: MailedToken) -> None:
        self._session.add(token)

    async def drop_of_user(self, user_id: UUID) -> None:
        await self._session.execute(
            delete(MailedToken).where(tables.mailed_tokens.c.user_id == user_id)
        )

    async def drop_of_address(self, key: str) -> None:
        """Void what would make an address somebody's that was nobody's when it was mailed."""
        await self._session.execute(
            delete(MailedToken).where(
                tables.mailed_tokens.c.user_id.is_(None),
                tables.mailed_tokens.c.address_key == key,
            )
        )

    async def replace(self, token: MailedToken) -> None:
        """Add it and void the user's older ones for the same purpose."""
        await self._session.execute(
            delete(MailedToken).where(
                tables.mailed_tokens.c.user_id == token.user_id,
                tables.mailed_tokens.c.purpose == token.purpose,
                tables.mailed_tokens.c.used_at.is_(None),
            )
        )
        self._session.add(token)

    async def peek(self, secret: str, purpose: Purpose) -> MailedToken | None:
        """Without a lock."""
        found = await self._session.get(MailedToken, fingerprint(secret))
        return found if found is not None and found.purpose is purpose else None

    async def get(self, secret: str, purpose: Purpose) -> MailedToken:
        found = await self._session.get(
            MailedToken, fingerprint(secret), with_for_update=True, populate_existing=True
        )
        if found is None or found.purpose is not purpose:
            raise TokenRefused
        return found


class KnownDevices:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def is_known(self, user_id: UUID, device_hash: bytes) -> bool:
        statement = select(tables.known_devices.c.user_id).where(
            tables.known_devices.c.user_id == user_id,
            tables.known_devices.c.device_hash == device_hash,
        )
        return (await self._session.scalar(statement)) is not None

    async def note(self, user_id: UUID, device_hash: bytes, *, at: datetime) -> None:
        """Know this device from now on."""
        statement = upsert(KnownDevice).values(
            user_id=user_id, device_hash=device_hash, created_at=at, last_used_at=at
        )
        await self._session.execute(
            statement.on_conflict_do_update(
                index_elements=["user_id", "device_hash"], set_={"last_used_at": at}
            )
        )

    async def forget_all(self, user_id: UUID) -> None:
        await self._session.execute(
            delete(KnownDevice).where(tables.known_devices.c.user_id == user_id)
        )


class Totps:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, totp: Totp) -> None:
        self._session.add(totp)

    async def find(self, user_id: UUID) -> Totp | None:
        return await self._session.get(Totp, user_id, with_for_update=True)

    async def remove(self, totp: Totp) -> None:
        await self._session.delete(totp)


class ApiKeys:
    def __init__(self, session: AsyncSession, revoke: Revoke) -> None:
        self._session = session
        self._revoke = revoke

    def add(self, key: ApiKey) -> None:
        self._session.add(key)

    async def get(self, key_id: UUID) -> ApiKey:
        statement = select(ApiKey).where(tables.api_keys.c.id == key_id).with_for_update()
        found = (await self._session.scalars(statement)).one_or_none()
        if found is None:
            raise ApiKeyNotFound("There is no such API key.")
        return found

    async def find_by_secret(self, secret: str) -> ApiKey | None:
        statement = select(ApiKey).where(tables.api_keys.c.key_hash == fingerprint(secret))
        return (await self._session.scalars(statement)).one_or_none()

    def end(self, key: ApiKey, *, because: KeyEnd, at: datetime) -> None:
        """End one, and every access token of it."""
        key.revoke(because=because, at=at)
        self._revoke(RevokedKind.KEY, key.id)

    async def end_of_account(self, account_id: UUID, *, because: KeyEnd, at: datetime) -> None:
        """End all keys of an account, and their access tokens."""
        await self._end_all(tables.api_keys.c.account_id == account_id, because=because, at=at)

    async def end_made_by(
        self,
        user_id: UUID,
        *,
        because: KeyEnd,
        at: datetime,
        account_id: UUID | None = None,
        as_staff: bool = False,
    ) -> None:
        """End the keys that somebody made, and their access tokens: all, or those of one account.

        `as_staff` leaves those of accounts that they are a member of.
        """
        mine = tables.api_keys.c.created_by == user_id
        if account_id is not None:
            mine &= tables.api_keys.c.account_id == account_id
        if as_staff:
            mine &= tables.api_keys.c.account_id.not_in(
                select(tables.memberships.c.account_id).where(
                    tables.memberships.c.user_id == user_id
                )
            )
        await self._end_all(mine, because=because, at=at)

    async def _end_all(self, which: ColumnElement[bool], *, because: KeyEnd, at: datetime) -> None:
        statement = (
            update(ApiKey)
            .where(which, tables.api_keys.c.revoked_at.is_(None))
            .values(revoked_at=at, revoked_because=because)
            .returning(tables.api_keys.c.id)
        )
        for key_id in (await self._session.scalars(statement)).all():
            self._revoke(RevokedKind.KEY, key_id)


class OperatorKeys:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, key: OperatorKey, secret: OperatorSecret) -> None:
        self._session.add(key)
        await self._session.flush()  # what refers to it comes after it
        self._session.add(secret)

    def add_secret(self, secret: OperatorSecret) -> None:
        self._session.add(secret)

    async def get(self, key_id: UUID) -> OperatorKey:
        key = await self._session.get(OperatorKey, key_id, with_for_update=True)
        if key is None:
            raise OperatorKeyNotFound("There is no such key.")
        return key

    async def secrets_of(self, key_id: UUID) -> Sequence[OperatorSecret]:
        statement = select(OperatorSecret).where(tables.operator_secrets.c.key_id == key_id)
        return (await self._session.scalars(statement)).all()

    async def find_by_secret(self, plain: str) -> tuple[OperatorKey, OperatorSecret] | None:
        """No lock: a key in use is read again and again, by every service."""
        secret = await self._session.get(OperatorSecret, fingerprint(plain))
        if secret is None:
            return None
        key = await self._session.get(OperatorKey, secret.key_id)
        return None if key is None else (key, secret)


class SigningKeys:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def lock(self) -> None:
        """One process at a time makes or rotates keys; the others wait, then see the result."""
        await self._session.execute(select(func.pg_advisory_xact_lock(KEYS_LOCK)))

    async def list_all(self) -> list[SigningKey]:
        statement = select(SigningKey).order_by(tables.signing_keys.c.signs_from)
        return list((await self._session.scalars(statement)).all())

    def add(self, key: SigningKey) -> None:
        self._session.add(key)

    async def remove(self, key: SigningKey) -> None:
        await self._session.delete(key)


NOTE_REVOCATIONS = """
INSERT INTO auth.revocations (position, kind, subject, below, until)
SELECT greatest(
           (SELECT coalesce(max(position), 0) FROM auth.revocations),
           (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
       ) + number, kind, subject, below, until
  FROM unnest($1::text[], $2::uuid[], $3::integer[], $4::timestamptz[])
       WITH ORDINALITY AS noted (kind, subject, below, until, number)
"""


class Mails:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def add(self, mail: Mail) -> None:
        self._session.add(mail)

    async def get(self, mail_id: UUID) -> Mail | None:
        return await self._session.get(Mail, mail_id, with_for_update=True)

    async def next_due(self, *, at: datetime, limit: int) -> Sequence[Mail]:
        """What waits, oldest first, leaving out what another worker has in hand."""
        statement = (
            select(Mail)
            .where(
                tables.mails.c.status == MailStatus.WAITING,
                tables.mails.c.next_attempt_at <= at,
            )
            .order_by(tables.mails.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return (await self._session.scalars(statement)).all()

    async def erase(self, user_id: UUID, key: str) -> None:
        """Drop what waits for them: nothing may be sent to somebody who asked to be forgotten."""
        await self._session.execute(
            update(Mail)
            .where(
                or_(tables.mails.c.user_id == user_id, func.lower(tables.mails.c.address) == key),
                tables.mails.c.status == MailStatus.WAITING,
            )
            .values(status=MailStatus.DROPPED, address=None, facts={})
        )


class AuthUnitOfWork(UnitOfWork):
    """One transaction over what auth owns."""

    def __init__(self, session: AsyncSession, scope: Scope, platform: Platform) -> None:
        super().__init__(session, scope, platform)
        self.users = Users(session)
        self.registrations = Registrations(session)
        self.known_devices = KnownDevices(session)
        self.accounts = Accounts(session)
        self.memberships = Memberships(session)
        self.invitations = Invitations(session)
        self.projects = Projects(session)
        self.sessions = Sessions(session, self.revoke)
        self.mailed_tokens = MailedTokens(session)
        self.totps = Totps(session)
        self.api_keys = ApiKeys(session, self.revoke)
        self.operator_keys = OperatorKeys(session)
        self.signing_keys = SigningKeys(session)
        self.mails = Mails(session)
        self._revocations: list[Revocation] = []

    def revoke(self, kind: RevokedKind, subject: UUID, *, below: int = 1) -> None:
        """Have every service refuse the access tokens that stand on this, once it is committed."""
        self._revocations.append(Revocation(kind=kind, subject=subject, below=below, at=utc_now()))
        self.wake("tell_what_was_revoked")

    async def write(self) -> None:
        """As every unit of work; what was revoked comes last, since all others wait for it."""
        await super().write()
        if not self._revocations:
            return
        await self.fetch("SELECT pg_advisory_xact_lock($1)", REVOCATIONS_LOCK)
        noted = self._revocations
        await self.fetch(
            NOTE_REVOCATIONS,
            [one.kind.value for one in noted],
            [one.subject for one in noted],
            [one.below for one in noted],
            [one.until for one in noted],
        )

    def mail(self, mail: Mail) -> None:
        """Have a worker send it, once this has committed."""
        self.mails.add(mail)
        self.wake("send_waiting_mails")
