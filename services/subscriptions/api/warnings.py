"""What is not refused but should be known: said in the answer that makes it."""

from typing import Any

from services.subscriptions.invoicing_client import invoicing_of
from shared.tax_category import UNRATED_CATEGORIES
from shared.web import Edge


async def tax_warnings(command: Edge[Any], category: str) -> list[str]:
    """Whether invoicing has a rate for a tax category. Asked outside of any transaction."""
    if category in UNRATED_CATEGORIES:
        return []
    headers = {"Authorization": command.request.headers["Authorization"]}
    has_rate = await invoicing_of(command.runtime.own).has_rate(category, headers)
    if has_rate is None:
        return [f"It could not be checked whether a tax rate is on file for {category!r}."]
    if has_rate:
        return []
    until = "no tax" if category == "standard" else "the standard rate"
    return [f"No tax rate is on file for {category!r}: {until} is charged until there is one."]
