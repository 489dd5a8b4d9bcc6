"""The HTTP edge, one file per thing that clients work with."""

from services.auth.api import (
    accounts,
    admin,
    api_keys,
    customer_sessions,
    invitations,
    keys,
    me,
    members,
    mfa,
    operator_keys,
    ops,
    projects,
    sign_in,
)

routers = [
    sign_in.router,
    me.router,
    mfa.router,
    accounts.router,
    members.router,
    invitations.router,
    api_keys.router,
    projects.router,
    admin.router,
    operator_keys.router,
    customer_sessions.router,
    keys.router,
    ops.router,
]
