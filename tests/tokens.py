"""Access tokens for tests of services that are not auth: same shape, a key of our own."""

import time
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from shared.ids import new_id
from shared.security import TOKEN_TYPE, Verifier
from shared.settings import Settings


class TokenIssuer:
    """Signs what auth would sign, and publishes its key as auth would."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "test", "use": "sig", "alg": "ES256"})

    async def fetch_keys(self) -> dict[str, Any]:
        return dict(KeySet([self.key]).as_dict(private=False))

    def verifier(self, settings: Settings) -> Verifier:
        return Verifier(self.fetch_keys, issuer=settings.issuer, audience=settings.audience)

    def token(self, **claims: Any) -> str:
        """A token that outlives the run, with these claims on top of the usual ones."""
        now = int(time.time())
        usual = {
            "iss": "perennial",
            "aud": "perennial",
            "sub": str(new_id()),
            "jti": str(new_id()),
            "iat": now,
            "exp": now + 86_400,
        }
        header = {"alg": "ES256", "kid": "test", "typ": TOKEN_TYPE}
        return jwt.encode(header, {**usual, **claims}, self.key, algorithms=["ES256"])

    def of_account(self, account_id: UUID, role: str = "owner", **claims: Any) -> dict[str, str]:
        """The header of a member of an account."""
        return bearer(self.token(account_id=str(account_id), role=role, **claims))

    def of_staff(self, staff: str = "admin", **claims: Any) -> dict[str, str]:
        """The header of a staff user."""
        return bearer(self.token(staff=staff, **claims))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
