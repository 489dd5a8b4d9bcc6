"""What every endpoint here asks for."""

from typing import Annotated

from fastapi import Depends

from services.invoicing.repository import InvoicingUnitOfWork
from shared.web import (
    Edge,
    PageRequest,
    Reading,
    command,
    keyed_command,
    listing,
    page_request,
    reading,
)

Command = Annotated[Edge[InvoicingUnitOfWork], Depends(command)]
KeyedCommand = Annotated[Edge[InvoicingUnitOfWork], Depends(keyed_command)]
Query = Annotated[Reading[InvoicingUnitOfWork], Depends(reading)]
Listing = Annotated[Reading[InvoicingUnitOfWork], Depends(listing)]
Paging = Annotated[PageRequest, Depends(page_request)]
