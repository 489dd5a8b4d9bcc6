"""Give a key of the operator a new secret, while the old one goes on for a while."""

from datetime import datetime, timedelta

from services.auth.domain.keys import LONGEST_LIFE
from services.auth.domain.operator_keys import OperatorKey, OperatorSecret
from services.auth.domain.revocations import RevokedKind
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.create_operator_key import terms_of


async def rotate_operator_key(
    uow: AuthUnitOfWork,
    key: OperatorKey,
    *,
    overlap: timedelta,
    expires_at: datetime | None = None,
    now: datetime,
) -> tuple[OperatorSecret, str]:
    """The new secret, and in plain. Raises `OperatorKeyOver`, `ExpiryPassed`.

    Every secret before it stops after `overlap`, and one that was to stop sooner does.
    """
    before = terms_of(key)
    key.renew(expires_at=expires_at, at=now)
    if overlap < LONGEST_LIFE:
        # What was had for an older secret does not live longer than that secret.
        uow.revoke(RevokedKind.KEY, key.id, below=key.version)
    for older in await uow.operator_keys.secrets_of(key.id):
        older.retire(after=overlap, at=now)
    secret, plain = OperatorSecret.issue(key.id, at=now)
    uow.operator_keys.add_secret(secret)
    after = {**terms_of(key), "overlap_hours": overlap / timedelta(hours=1)}
    uow.audit("operator_key.rotated", key.id, before=before, after=after)
    return secret, plain
