"""The public halves of the signing keys, where every verifier finds them."""

from typing import Any

from fastapi import Response

from services.auth.api.edges import Auth
from shared.clock import utc_now
from shared.web import Router

router = Router(tags=["keys"])


@router.get("/.well-known/jwks.json")
async def jwks(auth: Auth, response: Response) -> dict[str, Any]:
    """The keys in use and the next one (RFC 7517). May be kept for five minutes."""
    response.headers["cache-control"] = "public, max-age=300"
    return await auth.keys.published(at=utc_now())
