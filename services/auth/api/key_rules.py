"""What keys may ask of auth."""

from shared.security import KeyScope
from shared.web.key_rules import KeyRules, keys_with, no_keys

READ = keys_with(KeyScope.ACCOUNTS_READ)
WRITE = keys_with(KeyScope.ACCOUNTS_WRITE)
ME = no_keys("it is about the person who asks")
STAFF = no_keys("only people make and unmake staff, and keep users out")

KEY_RULES: KeyRules = {
    "GET /v1/me": ME,
    "PATCH /v1/me": ME,
    "DELETE /v1/me": ME,
    "GET /v1/me/export": ME,
    "POST /v1/me/password": ME,
    "POST /v1/me/email": ME,
    "POST /v1/me/email/confirm": ME,
    "POST /v1/me/mfa/totp": ME,
    "POST /v1/me/mfa/totp/confirm": ME,
    "DELETE /v1/me/mfa/totp": ME,
    "GET /v1/me/sessions": ME,
    "DELETE /v1/me/sessions": ME,
    "DELETE /v1/me/sessions/{session_id}": ME,
    "GET /v1/accounts": READ,
    "POST /v1/accounts": WRITE,
    "GET /v1/accounts/{account_id}": READ,
    "PATCH /v1/accounts/{account_id}": WRITE,
    "DELETE /v1/accounts/{account_id}": WRITE,
    "GET /v1/accounts/{account_id}/members": READ,
    "PATCH /v1/accounts/{account_id}/members/{user_id}": WRITE,
    "DELETE /v1/accounts/{account_id}/members/{user_id}": WRITE,
    "GET /v1/accounts/{account_id}/invitations": READ,
    # Keys of an account do not: an invitation says who invites, or is the operator's.
    "POST /v1/accounts/{account_id}/invitations": WRITE,
    "DELETE /v1/accounts/{account_id}/invitations/{invitation_id}": WRITE,
    "GET /v1/accounts/{account_id}/api-keys": READ,
    "POST /v1/accounts/{account_id}/api-keys": no_keys("only people make keys"),
    "DELETE /v1/accounts/{account_id}/api-keys/{key_id}": WRITE,
    "POST /v1/customer-sessions": keys_with(KeyScope.CUSTOMER_SESSIONS_WRITE),
    "GET /v1/projects": keys_with(KeyScope.PROJECTS_READ),
    "POST /v1/projects": keys_with(KeyScope.PROJECTS_WRITE),
    "GET /v1/projects/{project_id}": keys_with(KeyScope.PROJECTS_READ),
    "PATCH /v1/projects/{project_id}": keys_with(KeyScope.PROJECTS_WRITE),
    "GET /v1/admin/users": STAFF,
    "GET /v1/admin/users/{user_id}": STAFF,
    "PATCH /v1/admin/users/{user_id}": STAFF,
    "POST /v1/admin/users/{user_id}/suspend": STAFF,
    "POST /v1/admin/users/{user_id}/reactivate": STAFF,
    "GET /v1/admin/audit-log": no_keys("people read what people and keys did"),
}
