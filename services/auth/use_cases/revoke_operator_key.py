"""End a key of the operator, with all its secrets."""

from datetime import datetime

from services.auth.domain.operator_keys import OperatorKey
from services.auth.domain.revocations import RevokedKind
from services.auth.repository import AuthUnitOfWork


async def revoke_operator_key(uow: AuthUnitOfWork, key: OperatorKey, *, now: datetime) -> None:
    """Nothing more happens to a key that was revoked before."""
    if key.revoke(at=now):
        uow.revoke(RevokedKind.KEY, key.id, below=key.version)
        uow.audit("operator_key.revoked", key.id)
