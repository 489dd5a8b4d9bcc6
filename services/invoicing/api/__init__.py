"""Edge: HTTP."""

from services.invoicing.api import (
    billing_details,
    credit_notes,
    documents,
    drafts,
    exchange_rates,
    invoices,
    legal_entities,
    tax_rates,
)

routers = (
    invoices.router,
    drafts.router,
    credit_notes.router,
    documents.router,
    tax_rates.router,
    exchange_rates.router,
    legal_entities.router,
    billing_details.router,
)
