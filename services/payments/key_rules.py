"""What keys may ask of payments."""

from shared.security import KeyScope
from shared.web.key_rules import KeyRules, keys_with

READ = keys_with(KeyScope.PAYMENTS_READ)
WRITE = keys_with(KeyScope.PAYMENTS_WRITE)
BOOKS = keys_with(KeyScope.LEDGER_READ)

KEY_RULES: KeyRules = {
    "GET /v1/payment-methods": READ,
    "POST /v1/payment-methods": WRITE,
    "GET /v1/payment-methods/{method_id}": READ,
    "DELETE /v1/payment-methods/{method_id}": WRITE,
    "POST /v1/payment-methods/{method_id}/default": WRITE,
    "GET /v1/payments": READ,
    "GET /v1/payments/{payment_id}": READ,
    "POST /v1/invoices/{invoice_id}/pay": WRITE,
    "GET /v1/payments/{payment_id}/refunds": READ,
    "POST /v1/payments/{payment_id}/refunds": keys_with(KeyScope.REFUNDS_WRITE),
    "GET /v1/ledger/balances": BOOKS,
    "GET /v1/ledger/entries": BOOKS,
    "GET /v1/reconciliation": BOOKS,
}
