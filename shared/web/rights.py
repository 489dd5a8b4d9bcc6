"""Who may call an operation, declared where it is routed: `dependencies=[for_staff("finance")]`.

They are asked before anything of the request is looked at, so that who may not ask gets 401 or
403, whatever else is wrong. They go by the caller alone, so that `docs/permissions.md` can be
written by asking them about every kind of caller.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends

from shared.errors import Forbidden
from shared.security import Caller
from shared.web.edge import caller

Asking = Annotated[Caller, Depends(caller)]


class Right:
    """Something asked of the caller: `check` raises `Forbidden` for who may not.

    `but` says for the page what else decides, where the request itself has a part in it.
    """

    def __init__(self, check: Callable[[Caller], None], *, but: str | None = None) -> None:
        self.check = check
        self.but = but

    async def __call__(self, asking: Asking) -> None:
        self.check(asking)


def for_staff(*roles: str, but: str | None = None) -> Any:
    """Only staff, of one of these roles when any is named; of keys those of the operator."""
    return Depends(Right(lambda asking: asking.require_staff(*roles), but=but))


def for_role(*roles: str, staff: tuple[str, ...] = (), but: str | None = None) -> Any:
    """One of these roles in the account (none named: any), an owner, or somebody for them.

    That is a key of the operator, or staff: of one of the roles in `staff` where it names any.
    """

    def check(asking: Caller) -> None:
        if asking.staff is not None:
            asking.require_staff(*staff)
        elif roles:
            asking.require_role(*roles)

    return Depends(Right(check, but=but))


def _refuse_keys_of_accounts(asking: Caller) -> None:
    if asking.scopes is not None and not asking.operator_key:
        raise Forbidden("This is for people; an API key cannot do it.")


#: What a key of the operator does, and else people, for it is they who did it.
FOR_PEOPLE_OR_OPERATOR: Any = Depends(Right(_refuse_keys_of_accounts))
