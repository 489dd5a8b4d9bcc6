"""Make and end an account's API keys. They live in real time, whatever a test clock says."""

from datetime import datetime
from uuid import UUID

from services.auth.domain.accounts import RoleTooWeak, require_manager
from services.auth.domain.api_keys import ApiKey, KeyEnd
from services.auth.domain.roles import Role
from services.auth.repository import AuthUnitOfWork
from shared.clock import utc_now


async def create_api_key(
    uow: AuthUnitOfWork,
    account_id: UUID,
    *,
    name: str,
    role: Role,
    scopes: list[str],
    expires_at: datetime | None,
    created_by: UUID,
    by: Role,
) -> tuple[ApiKey, str]:
    """A key and its secret. Nobody makes a key that is stronger than themself."""
    require_manager(by)
    if role is Role.OWNER and by is not Role.OWNER:
        raise RoleTooWeak("Only an owner can make a key with an owner's rights.")
    key, secret = ApiKey.create(
        account_id=account_id,
        name=name,
        role=role,
        scopes=scopes,
        created_by=created_by,
        expires_at=expires_at,
        at=utc_now(),
    )
    uow.api_keys.add(key)
    uow.audit(
        "api_key.created", key.id, account_id=account_id, after={"role": role, "scopes": scopes}
    )
    return key, secret


async def revoke_api_key(uow: AuthUnitOfWork, key_id: UUID, *, by: Role) -> None:
    require_manager(by)
    key = await uow.api_keys.get(key_id)
    uow.api_keys.end(key, because=KeyEnd.REVOKED, at=utc_now())
    uow.audit("api_key.revoked", key.id)
