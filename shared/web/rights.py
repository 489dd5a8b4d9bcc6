"""Who may call an operation, declared where it is routed: `dependencies=[for_staff("finance")]`.

They are asked before anything of the request is looked at, so that who may not ask gets 401 or
403, whatever else is wrong.
"""

from typing import Annotated, Any

from fastapi import Depends

from shared.security import Caller
from shared.web.edge import caller

Asking = Annotated[Caller, Depends(caller)]


def for_staff(*roles: str) -> Any:
    """Only staff, of one of these roles when any is named."""

    async def require_staff(asking: Asking) -> None:
        asking.require_staff(*roles)

    return Depends(require_staff)


def for_role(*roles: str) -> Any:
    """One of these roles in the account, or an owner, or staff."""

    async def require_role(asking: Asking) -> None:
        asking.require_role(*roles)

    return Depends(require_role)
