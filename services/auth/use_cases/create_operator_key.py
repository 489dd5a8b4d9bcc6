"""Make a secret key for the operator's backend."""

from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from services.auth.domain.operator_keys import OperatorKey, OperatorSecret
from services.auth.repository import AuthUnitOfWork
from shared.security import KeyScope


async def create_operator_key(
    uow: AuthUnitOfWork,
    *,
    name: str,
    scopes: Iterable[KeyScope],
    networks: Iterable[IPv4Network | IPv6Network] = (),
    expires_at: datetime | None = None,
    now: datetime,
) -> tuple[OperatorKey, OperatorSecret, str]:
    """The key, its first secret, and that secret in plain. Raises `ExpiryPassed`."""
    key = OperatorKey.create(
        name=name,
        scopes=scopes,
        networks=networks,
        expires_at=expires_at,
        created_by=uow.scope.actor,
        at=now,
    )
    secret, plain = OperatorSecret.issue(key.id, at=now)
    await uow.operator_keys.add(key, secret)
    uow.audit("operator_key.created", key.id, after=terms_of(key))
    return key, secret, plain


def terms_of(key: OperatorKey) -> dict[str, object]:
    """What the audit log keeps of a key."""
    return {
        "scopes": key.scopes,
        "networks": key.networks,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }
