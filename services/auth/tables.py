"""The auth schema and its mapping; Alembic's target."""

from enum import StrEnum

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry

from services.auth.domain.accounts import (
    Account,
    AccountStatus,
    Invitation,
    InvitationStatus,
    Membership,
)
from services.auth.domain.api_keys import ApiKey, KeyEnd
from services.auth.domain.keys import SigningKey
from services.auth.domain.mail import Mail, MailStatus, SettledInvoice, Template
from services.auth.domain.mfa import Totp
from services.auth.domain.operator_keys import OperatorKey, OperatorSecret
from services.auth.domain.projects import Project, ProjectStatus
from services.auth.domain.registrations import Registration
from services.auth.domain.revocations import RevokedKind
from services.auth.domain.roles import Role, StaffRole
from services.auth.domain.sessions import (
    KnownDevice,
    MailedToken,
    Purpose,
    RefreshToken,
    Session,
)
from services.auth.domain.users import PersonalDetails, User, UserStatus
from shared.db import service_metadata, stored

metadata = service_metadata("auth")
mapping = registry(metadata=metadata)


def _moment(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _choice(name: str, kind: type[StrEnum], *, nullable: bool = False) -> Column[object]:
    return Column(name, stored(kind), nullable=nullable)


#: The words that an account is searched by; an address is more than one of them.
ACCOUNT_WORDS = (
    "to_tsvector('simple'::regconfig, translate(coalesce(name, '') || ' ' || coalesce(email, '')"
    " || ' ' || coalesce(external_id, ''), '@._-/', '     '))"
)

users = Table(
    "users",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("home_account_id", Uuid, nullable=False),
    Column("password_hash", Text),
    _choice("status", UserStatus),
    _choice("staff_role", StaffRole, nullable=True),
    _moment("created_at"),
    Column("version", Integer, nullable=False),
    CheckConstraint("version >= 0", name="version"),
    CheckConstraint(
        "status <> 'erased' OR (password_hash IS NULL AND staff_role IS NULL)", name="erased"
    ),
)

personal_details = Table(
    "personal_details",
    metadata,
    Column("user_id", ForeignKey(users.c.id, ondelete="CASCADE"), primary_key=True),
    Column("email", Text, nullable=False),
    Column("address_key", Text, nullable=False, unique=True),
    Column("full_name", Text),
    # Staff look for users by the beginning of an address.
    Index(
        "ix_personal_details_address_prefix",
        "address_key",
        postgresql_ops={"address_key": "text_pattern_ops"},
    ),
)

registrations = Table(
    "registrations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("email", Text, nullable=False),
    Column("address_key", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("full_name", Text),
    Column("account_name", Text),
    Column("country", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    _moment("created_at"),
    _moment("expires_at"),
    # What was signed up with an address, when it is proven and when somebody logs in.
    Index("ix_registrations_address_key", "address_key", "id"),
    # The hourly clean-up looks for what nobody confirmed.
    Index("ix_registrations_expires_at", "expires_at"),
)

known_devices = Table(
    "known_devices",
    metadata,
    Column("user_id", ForeignKey(users.c.id), primary_key=True),
    Column("device_hash", LargeBinary, primary_key=True),
    _moment("created_at"),
    _moment("last_used_at"),
    # The hourly clean-up looks for what was not used for long.
    Index("ix_known_devices_last_used_at", "last_used_at"),
    CheckConstraint("octet_length(device_hash) = 32", name="hash"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text),
    Column("country", Text, nullable=False),
    Column("time_zone", Text, nullable=False),
    Column("email", Text),
    Column("external_id", Text),
    Column("metadata", JSONB, nullable=False, server_default=text("'{}'")),
    Column("language", Text),
    Column("currency", Text),
    _choice("status", AccountStatus),
    _moment("created_at"),
    _moment("closed_at", nullable=True),
    Column("version", Integer, nullable=False),
    CheckConstraint("country ~ '^[A-Z]{2}$'", name="country"),
    CheckConstraint("version >= 0", name="version"),
    CheckConstraint("(status = 'closed') = (closed_at IS NOT NULL)", name="closed"),
    # The operator's system asks for its own id, and finds one account at most.
    Index(
        "uq_accounts_external_id",
        "external_id",
        unique=True,
        postgresql_where=text("external_id IS NOT NULL"),
    ),
    # Accounts by the address that their mails about money go to.
    Index("ix_accounts_email", text("lower(email)"), postgresql_where=text("email IS NOT NULL")),
    # Accounts by what the operator noted about them.
    Index(
        "ix_accounts_metadata",
        "metadata",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    ),
    # Accounts by how the words in their names begin.
    Index("ix_accounts_words", text(ACCOUNT_WORDS), postgresql_using="gin"),
)

memberships = Table(
    "memberships",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", ForeignKey(accounts.c.id), nullable=False),
    Column("user_id", ForeignKey(users.c.id), nullable=False),
    _choice("role", Role),
    _moment("created_at"),
    Column("version", Integer, nullable=False),
    UniqueConstraint("account_id", "user_id"),
    # Log-in and the list of my accounts.
    Index("ix_memberships_user_id", "user_id", "id"),
)

invitations = Table(
    "invitations",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", ForeignKey(accounts.c.id), nullable=False),
    Column("email", Text),
    _choice("role", Role),
    Column("token_hash", LargeBinary, nullable=False, unique=True),
    Column("invited_by", ForeignKey(users.c.id)),
    _choice("status", InvitationStatus),
    _moment("expires_at"),
    _moment("created_at"),
    # The account's list of invitations.
    Index("ix_invitations_account_id", "account_id", "id"),
    CheckConstraint("status = 'pending' OR email IS NULL", name="over"),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", ForeignKey(accounts.c.id), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    _choice("status", ProjectStatus),
    _moment("created_at"),
    Column("version", Integer, nullable=False),
    UniqueConstraint("account_id", "name"),
    # The account's list of projects.
    Index("ix_projects_account_id", "account_id", "id"),
    CheckConstraint("version >= 0", name="version"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", ForeignKey(users.c.id), nullable=False),
    Column("signed_in_to", Uuid, nullable=False),
    Column("ip", Text),
    Column("user_agent", Text),
    _moment("created_at"),
    _moment("last_used_at"),
    _moment("expires_at"),
    _moment("revoked_at", nullable=True),
    Column("revoked_because", Text),
    # "Where am I signed in?" and ending all of them.
    Index("ix_sessions_user_id", "user_id", "id"),
    # The daily clean-up looks for what is long over.
    Index("ix_sessions_expires_at", "expires_at"),
    CheckConstraint("(revoked_at IS NULL) = (revoked_because IS NULL)", name="revoked"),
)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("session_id", ForeignKey(sessions.c.id, ondelete="CASCADE"), nullable=False),
    _moment("issued_at"),
    _moment("expires_at"),
    _moment("used_at", nullable=True),
    # Deleting a session takes its tokens along.
    Index("ix_refresh_tokens_session_id", "session_id"),
    CheckConstraint("octet_length(token_hash) = 32", name="hash"),
)

mailed_tokens = Table(
    "mailed_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", ForeignKey(users.c.id)),
    _choice("purpose", Purpose),
    Column("email", Text),
    Column("address_key", Text),
    _moment("created_at"),
    _moment("expires_at"),
    _moment("used_at", nullable=True),
    # A new token voids the user's older ones for the same purpose.
    Index("ix_mailed_tokens_user_id", "user_id", "purpose"),
    # Once an address is somebody's, no other token makes it anybody's.
    Index(
        "ix_mailed_tokens_address_key",
        "address_key",
        postgresql_where=text("user_id IS NULL"),
    ),
    CheckConstraint("user_id IS NOT NULL OR address_key IS NOT NULL", name="proves"),
    # The daily clean-up looks for what is long over.
    Index("ix_mailed_tokens_expires_at", "expires_at"),
    CheckConstraint("octet_length(token_hash) = 32", name="hash"),
)

totps = Table(
    "totps",
    metadata,
    Column("user_id", ForeignKey(users.c.id), primary_key=True),
    Column("secret", Text, nullable=False),
    _moment("confirmed_at", nullable=True),
    Column("last_step", Integer, nullable=False),
    Column("backup_hashes", ARRAY(Text), nullable=False),
    _moment("created_at"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", ForeignKey(accounts.c.id), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    _choice("role", Role),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("created_by", ForeignKey(users.c.id), nullable=False),
    _moment("created_at"),
    _moment("expires_at", nullable=True),
    _moment("revoked_at", nullable=True),
    # Null where the release before this column ended it.
    _choice("revoked_because", KeyEnd, nullable=True),
    _moment("last_used_at", nullable=True),
    # The account's list of keys.
    Index("ix_api_keys_account_id", "account_id", "id"),
    # The keys that somebody made: they end with their maker.
    Index("ix_api_keys_created_by", "created_by"),
    CheckConstraint("octet_length(key_hash) = 32", name="hash"),
)

operator_keys = Table(
    "operator_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("networks", ARRAY(Text), nullable=False),
    Column("created_by", Text, nullable=False),
    _moment("created_at"),
    _moment("expires_at", nullable=True),
    _moment("revoked_at", nullable=True),
    Column("version", Integer, nullable=False),
    CheckConstraint("version >= 1", name="version"),
)

operator_secrets = Table(
    "operator_secrets",
    metadata,
    Column("key_hash", LargeBinary, primary_key=True),
    Column("key_id", ForeignKey(operator_keys.c.id), nullable=False),
    Column("prefix", Text, nullable=False),
    _moment("created_at"),
    _moment("ends_at", nullable=True),
    _moment("last_used_at", nullable=True),
    # The secrets of a key, to list and to rotate it.
    Index("ix_operator_secrets_key_id", "key_id"),
    CheckConstraint("octet_length(key_hash) = 32", name="hash"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", Text, primary_key=True),
    Column("private_jwk", JSONB, nullable=False),
    _moment("signs_from"),
    _moment("published_until", nullable=True),
    _moment("created_at"),
)

revocations = Table(
    "revocations",
    metadata,
    # In the order of commits: microseconds since 1970 when there was none at that instant.
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    _choice("kind", RevokedKind),
    Column("subject", Uuid, nullable=False),
    Column("below", Integer, nullable=False),
    _moment("until"),
    CheckConstraint("below > 0", name="below"),
)

mails = Table(
    "mails",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("user_id", ForeignKey(users.c.id)),
    Column("address", Text),
    _choice("template", Template),
    Column("facts", JSONB, nullable=False),
    _moment("dated"),
    _choice("status", MailStatus),
    Column("attempts", Integer, nullable=False),
    _moment("next_attempt_at"),
    _moment("sent_at", nullable=True),
    Column("last_error", Text),
    _moment("created_at"),
    # The sender takes what waits, in the order of writing.
    Index(
        "ix_mails_waiting",
        "id",
        "next_attempt_at",
        postgresql_where=text("status = 'waiting'"),
    ),
    # Erasing a user, and the export of what we hold about them.
    Index("ix_mails_user_id", "user_id"),
    # The daily clean-up looks for what is long sent.
    Index("ix_mails_created_at", "created_at"),
    CheckConstraint("attempts >= 0", name="attempts"),
    CheckConstraint("status = 'waiting' OR (address IS NULL AND facts = '{}')", name="wiped"),
    CheckConstraint("(status = 'sent') = (sent_at IS NOT NULL)", name="sent"),
)

settled_invoices = Table(
    "settled_invoices",
    metadata,
    Column("invoice_id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    _moment("settled_at"),
    # Whether an account has ever paid.
    Index("ix_settled_invoices_account_id", "account_id"),
    # The daily clean-up.
    Index("ix_settled_invoices_settled_at", "settled_at"),
)

mapping.map_imperatively(User, users)
mapping.map_imperatively(PersonalDetails, personal_details)
mapping.map_imperatively(Registration, registrations)
mapping.map_imperatively(KnownDevice, known_devices)
mapping.map_imperatively(Account, accounts)
mapping.map_imperatively(Membership, memberships)
mapping.map_imperatively(Invitation, invitations)
mapping.map_imperatively(Project, projects)
mapping.map_imperatively(Session, sessions)
mapping.map_imperatively(RefreshToken, refresh_tokens)
mapping.map_imperatively(MailedToken, mailed_tokens)
mapping.map_imperatively(Totp, totps)
mapping.map_imperatively(ApiKey, api_keys)
mapping.map_imperatively(OperatorKey, operator_keys)
mapping.map_imperatively(OperatorSecret, operator_secrets)
mapping.map_imperatively(SigningKey, signing_keys)
mapping.map_imperatively(Mail, mails)
mapping.map_imperatively(SettledInvoice, settled_invoices)
