"""The look of numbers."""

from datetime import UTC, datetime

import pytest

from services.invoicing.domain.numbering import BadNumberPattern, check_pattern, render

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_pattern_is_free() -> None:
    assert render("INV-{year}-{seq:06}", seq=42, on=NOW, series="invoice") == "INV-2026-000042"
    assert render("{series}/{year}{month}/{seq}", seq=7, on=NOW, series="a") == "a/202603/7"


@pytest.mark.parametrize(
    "pattern", ["INV-{year}", "{seq", "{seq.real}", "{seq:zz}", "{seq}{name}", "{}", "{seq:0200}"]
)
def test_a_pattern_that_gives_no_number_of_its_own_is_refused(pattern: str) -> None:
    with pytest.raises(BadNumberPattern):
        check_pattern(pattern)
