"""Make the first signing key, bring the next, and drop what no token needs any more."""

from datetime import datetime

from services.auth.domain.keys import ROTATE_AFTER, SigningKey
from services.auth.repository import AuthUnitOfWork


async def ensure_key(uow: AuthUnitOfWork, *, now: datetime) -> None:
    """There is a key to sign with from the first start on."""
    from services.auth.tokens import new_key  # noqa: PLC0415 -- a worker rarely makes keys

    await uow.signing_keys.lock()
    if not await uow.signing_keys.list_all():
        uow.signing_keys.add(new_key(signs_from=now, at=now))


async def rotate_keys(uow: AuthUnitOfWork, *, now: datetime) -> SigningKey:
    """Publish a successor. It signs in ten minutes, when every verifier knows it.

    Asked again before that, it gives the successor that is already on its way.
    """
    from services.auth.tokens import new_key, next_key  # noqa: PLC0415 -- as above

    await uow.signing_keys.lock()
    keys = await uow.signing_keys.list_all()
    newest = keys[-1] if keys else None
    if newest is not None and newest.signs_from > now:
        return newest
    successor = next_key(at=now) if newest else new_key(signs_from=now, at=now)
    for key in keys:
        if key.published_until is None:
            key.hand_over(successor)
    uow.signing_keys.add(successor)
    uow.audit("signing_key.added", successor.kid)
    return successor


async def keep_keys_fresh(uow: AuthUnitOfWork, *, now: datetime) -> int:
    """Rotate when it is time and drop keys that no living token was signed with."""
    await uow.signing_keys.lock()
    keys = await uow.signing_keys.list_all()
    over = [key for key in keys if not key.is_published(at=now)]
    for key in over:
        await uow.signing_keys.remove(key)
    if not keys or keys[-1].signs_from + ROTATE_AFTER <= now:
        await rotate_keys(uow, now=now)
        return len(over) + 1
    return len(over)
