"""Invoices and lines for bookkeeping, as files."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Query as Param
from fastapi.responses import StreamingResponse

from services.invoicing.api.edge import Listing
from services.invoicing.exports import MEDIA_TYPES, Format, Of, export
from shared.web import Instant, Router

router = Router(prefix="/v1/exports", tags=["exports"])


@router.get("/{of}", response_class=StreamingResponse)
async def export_invoices(
    *,
    of: Of,
    query: Listing,
    since: Annotated[Instant, Param(alias="from")],
    until: Annotated[Instant, Param(alias="to")],
    form: Annotated[Format, Param(alias="format")] = Format.CSV,
) -> StreamingResponse:
    """What was issued in a period, with one row of sums per currency at the end."""
    # Here and not in the stream: a refusal must come before the first byte.
    scope = query.scope

    async def stream() -> AsyncIterator[bytes]:
        async with query.runtime.begin(scope) as uow:
            async for part in export(uow, of, form, since=since, until=until):
                yield part

    name = f"{of.value}-{since:%Y%m%d}-{until:%Y%m%d}.{form.value}"
    return StreamingResponse(
        stream(),
        media_type=MEDIA_TYPES[form],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
