"""The operator's backend trades its secret key for an access token."""

from datetime import datetime

from services.auth.domain.bearer import Bearer
from services.auth.domain.keys import ACCESS_LIFE
from services.auth.repository import AuthUnitOfWork
from shared.secret_keys import is_well_formed
from shared.security import ApiKeyRefused, KeyMistyped


async def exchange_operator_key(uow: AuthUnitOfWork, *, secret: str, now: datetime) -> Bearer:
    """Whom the key speaks for. Raises `KeyMistyped` and `ApiKeyRefused`.

    From where it may be used goes along in the token, and whoever is shown it holds to that.
    """
    if not is_well_formed(secret):
        raise KeyMistyped("This is not a whole key: its checksum does not fit. Copy it again.")
    found = await uow.operator_keys.find_by_secret(secret)
    if found is None:
        raise ApiKeyRefused
    key, used = found
    if not key.is_alive(at=now):
        raise ApiKeyRefused
    used.use(at=now)
    ends = [end for end in (key.expires_at, used.ends_at) if end is not None]
    return Bearer(
        subject=str(key.id),
        account_id=None,
        scopes=tuple(key.scopes),
        is_operator=True,
        networks=tuple(key.networks),
        key_version=key.version,
        # No token outlives what it was traded for.
        ends_at=min([now + ACCESS_LIFE, *ends]),
    )
