"""`?limit=` and `?cursor=`: what every list takes."""

from typing import Annotated

from fastapi import Query

from shared.errors import Invalid
from shared.pages import Cursor, PageRequest
from shared.web.refusals import refuses


@refuses(Invalid)
async def page_request(
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> PageRequest:
    """`?limit=` and `?cursor=` of every list."""
    return PageRequest(limit, Cursor.decode(cursor) if cursor else None)
