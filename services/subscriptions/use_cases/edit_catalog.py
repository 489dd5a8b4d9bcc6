"""Edit what is sold where that rewrites nothing that was agreed; take it off sale and put it back.

Invoices keep the words that they were written with, trials their end and coupons in use their
value: an edit counts for what comes after it.
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from services.subscriptions.domain.catalog import Editable
from services.subscriptions.repository import SubscriptionsUnitOfWork
from services.subscriptions.use_cases.mark_stale import mark_everybody_stale

#: What cached entitlements are made of.
ENTITLING = frozenset({"features"})


async def edit_entry(
    uow: SubscriptionsUnitOfWork, entry: Editable, changes: Mapping[str, Any], *, action: str
) -> None:
    """Set what differs of something locked, and write down by whom; nothing else is written."""
    before = entry.edit(changes)
    if not before:
        return
    after = {name: changes[name] for name in before}
    uow.audit(action, entry.id, before=to_jsonable_python(before), after=to_jsonable_python(after))
    if ENTITLING & before.keys():
        await mark_everybody_stale(uow)
