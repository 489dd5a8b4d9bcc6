"""What every verifier of tokens asks auth for: the public keys, and what was revoked."""

from typing import Annotated, Any

from fastapi import Query, Request, Response

from services.auth import queries
from services.auth.api.edges import Auth
from shared.clock import utc_now
from shared.web import Router

router = Router(tags=["keys"])


@router.get("/.well-known/jwks.json")
async def jwks(auth: Auth, response: Response) -> dict[str, Any]:
    """The keys in use and the next one (RFC 7517). May be kept for five minutes."""
    response.headers["cache-control"] = "public, max-age=300"
    return await auth.keys.published(at=utc_now())


#: More of them come with the next request.
REVOKED_AT_ONCE = 5000


@router.get("/internal/revocations", include_in_schema=False)
async def revoked(request: Request, after: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
    """For the services, when Redis cannot say. The gateway lets nobody through to this.

    Ids and times, by the order of commits; nothing that a stranger could use.
    """
    async with request.app.state.runtime.begin() as uow:
        news = await queries.revocations(uow, after=after, most=REVOKED_AT_ONCE)
    return {
        "revoked": [(one.position, one.subject, one.below, one.until) for one in news.revoked],
        "position": news.position,
        "more": len(news.revoked) == REVOKED_AT_ONCE,
    }
