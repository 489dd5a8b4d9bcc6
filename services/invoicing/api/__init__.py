"""Edge: HTTP."""

from services.invoicing.api import (
    billing_details,
    credit_notes,
    documents,
    drafts,
    exchange_rates,
    exports,
    invoices,
    legal_entities,
    ops,
    previews,
    tax_rates,
)

routers = (
    previews.router,
    invoices.router,
    drafts.router,
    credit_notes.router,
    documents.router,
    tax_rates.router,
    exchange_rates.router,
    exports.router,
    legal_entities.router,
    billing_details.router,
    ops.router,
)
