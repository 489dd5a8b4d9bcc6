"""The rendering process: what it does with one document."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rendered:
    pdf: bytes
    xml: bytes


def render(paper: dict[str, Any], logo: bytes | None) -> Rendered:
    """The PDF with its CII, and the UBL; both e-invoices valid by their schemas."""
    # The libraries take 100 MB: they are loaded here, in a process of their own, and nowhere else.
    from services.invoicing.documents.einvoice import cii, ubl  # noqa: PLC0415
    from services.invoicing.documents.pdf import pdf  # noqa: PLC0415

    return Rendered(pdf=pdf(paper, cii(paper), logo=logo), xml=ubl(paper))
