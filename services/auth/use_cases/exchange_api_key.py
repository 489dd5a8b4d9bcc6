"""A program trades its API key for an access token that every service understands."""

from datetime import datetime

from services.auth import queries
from services.auth.domain.accounts import Account, AccountStatus
from services.auth.domain.api_keys import NOTED_EVERY
from services.auth.domain.bearer import Bearer
from services.auth.domain.keys import ACCESS_LIFE
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.exchange_operator_key import exchange_operator_key
from shared.secret_keys import is_secret_key
from shared.security import ApiKeyRefused


async def exchange_api_key(uow: AuthUnitOfWork, *, secret: str, now: datetime) -> Bearer:
    """Whom the key speaks for: the operator, or an account, with no more than its maker may do.

    Raises `ApiKeyRefused`.
    """
    if is_secret_key(secret):
        return await exchange_operator_key(uow, secret=secret, now=now)
    key = await uow.api_keys.find_by_secret(secret)
    if key is None:
        raise ApiKeyRefused
    key.require_alive(at=now)
    account = await uow.session.get(Account, key.account_id)
    if account is None or account.status is AccountStatus.CLOSED:
        raise ApiKeyRefused
    maker = await queries.maker_of(uow, key)
    role = key.acting_role(maker)
    if key.last_used_at is None or now - key.last_used_at > NOTED_EVERY:
        key.last_used_at = now
    return Bearer(
        subject=str(key.id),
        account_id=key.account_id,
        role=role,
        scopes=tuple(key.scopes),
        membership=maker.membership,
        # No token outlives what it was traded for.
        ends_at=min(now + ACCESS_LIFE, key.expires_at) if key.expires_at else None,
    )
