"""What keys may ask of invoicing."""

from shared.security import KeyScope
from shared.web.key_rules import KeyRules, keys_with

READ = keys_with(KeyScope.INVOICES_READ)
WRITE = keys_with(KeyScope.INVOICES_WRITE)
CREDIT = keys_with(KeyScope.CREDIT_WRITE)
BILLING_READ = keys_with(KeyScope.BILLING_READ)
BILLING_WRITE = keys_with(KeyScope.BILLING_WRITE)
SETTINGS_READ = keys_with(KeyScope.SETTINGS_READ, KeyScope.SETTINGS_WRITE)
SETTINGS_WRITE = keys_with(KeyScope.SETTINGS_WRITE)
#: What is no secret of the operator's, and a key of an account reads beside its invoices.
RATES = keys_with(KeyScope.INVOICES_READ, KeyScope.SETTINGS_READ, KeyScope.SETTINGS_WRITE)

KEY_RULES: KeyRules = {
    "GET /v1/invoices": READ,
    "POST /v1/invoices": WRITE,
    # Subscriptions asks it with the token of whoever previews a change there.
    "POST /v1/invoices/preview": keys_with(KeyScope.INVOICES_READ, KeyScope.SUBSCRIPTIONS_READ),
    "GET /v1/invoices/{invoice_id}": READ,
    "PATCH /v1/invoices/{invoice_id}": WRITE,
    "POST /v1/invoices/{invoice_id}/finalize": WRITE,
    "POST /v1/invoices/{invoice_id}/void": WRITE,
    "POST /v1/invoices/{invoice_id}/reissue": WRITE,
    "POST /v1/invoices/{invoice_id}/mark-paid": WRITE,
    "POST /v1/invoices/{invoice_id}/mark-uncollectible": WRITE,
    "GET /v1/invoices/{invoice_id}/pdf": READ,
    "GET /v1/invoices/{invoice_id}/xml": READ,
    "GET /v1/credit-notes": READ,
    "POST /v1/credit-notes": CREDIT,
    "GET /v1/credit-notes/{note_id}": READ,
    "GET /v1/credit-notes/{note_id}/pdf": READ,
    "GET /v1/credit-notes/{note_id}/xml": READ,
    "GET /v1/exports/{of}": READ,
    "POST /v1/attachments": WRITE,
    "GET /v1/attachments/{attachment_id}": READ,
    "POST /v1/attachments/{attachment_id}/complete": WRITE,
    "GET /v1/billing-details": BILLING_READ,
    "PUT /v1/billing-details": BILLING_WRITE,
    "GET /v1/account-credit": BILLING_READ,
    "GET /v1/account-credit/entries": BILLING_READ,
    "POST /v1/account-credit": CREDIT,
    "GET /v1/tax-rates": RATES,
    "POST /v1/tax-rates": SETTINGS_WRITE,
    "GET /v1/exchange-rates": RATES,
    "POST /v1/exchange-rates": SETTINGS_WRITE,
    "GET /v1/legal-entities": SETTINGS_READ,
    "POST /v1/legal-entities": SETTINGS_WRITE,
    "GET /v1/legal-entities/{entity_id}": SETTINGS_READ,
    "PUT /v1/legal-entities/{entity_id}": SETTINGS_WRITE,
}
