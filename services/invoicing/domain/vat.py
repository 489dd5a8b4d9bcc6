"""VAT numbers: their form and checksum; whether one is in use only its country can say."""

import re

from services.invoicing.domain.tax import EU
from shared.errors import Invalid

#: Prefixes of VAT numbers that are not the country's ISO code.
COUNTRY_OF = {"EL": "GR", "XI": "GB"}


class VatNumberInvalid(Invalid):
    code = "vat-number-invalid"


def country_of(vat_id: str) -> str:
    """The ISO 3166 code of the country that gave the number."""
    prefix = vat_id[:2]
    return COUNTRY_OF.get(prefix, prefix)


def check_vat_id(text: str) -> str:
    """The number in its plain form. Raises `VatNumberInvalid` when its checksum is wrong."""
    # Takes a country module each; loaded when the first number comes.
    from stdnum.eu import vat  # noqa: PLC0415
    from stdnum.exceptions import ValidationError  # noqa: PLC0415

    compact = re.sub(r"[\s.\-]", "", text).upper()
    if country_of(compact) in EU:
        try:
            return str(vat.validate(compact))
        except ValidationError:
            raise VatNumberInvalid(
                f"{text!r} is not a valid VAT number of the EU: check its digits.", field="vat_id"
            ) from None
    if not re.fullmatch(r"[A-Z]{2}[A-Z0-9]{4,20}", compact):
        raise VatNumberInvalid(
            f"{text!r} does not look like a tax number with its country's prefix.", field="vat_id"
        )
    return compact
