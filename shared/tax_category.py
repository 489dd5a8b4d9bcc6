"""The names of tax categories: one pattern for prices and for the rates on file."""

from typing import Annotated

from pydantic import StringConstraints

#: `standard`, `reduced`, and what an operator has rates for.
TAX_CATEGORY_PATTERN = r"^[a-z][a-z0-9_-]{0,49}$"

TaxCategory = Annotated[str, StringConstraints(pattern=TAX_CATEGORY_PATTERN)]

#: Taxed by a rule and not by a rate: these need none on file.
UNRATED_CATEGORIES = frozenset({"exempt", "zero"})
