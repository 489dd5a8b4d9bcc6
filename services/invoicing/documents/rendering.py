"""The rendering process: what it does with one document."""

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATM = Path("/proc/self/statm")


class NotValid(Exception):
    """The e-invoice breaks a rule of its norm: the document must not leave.

    Says which rules, and nothing of what the document says.
    """


@dataclass(frozen=True)
class Rendered:
    pdf: bytes
    xml: bytes
    #: What the process holds after it, in bytes.
    memory: int = 0


def render(paper: dict[str, Any], logo: bytes | None, more_fonts: str | None = None) -> Rendered:
    """The PDF with its CII, and the UBL. Raises `NotValid` when one of the two is not."""
    # The libraries take 100 MB: they are loaded here, in a process of their own, and nowhere else.
    from services.invoicing.documents.einvoice import cii, ubl  # noqa: PLC0415
    from services.invoicing.documents.pdf import pdf  # noqa: PLC0415

    embedded, xml = cii(paper), ubl(paper)
    made = pdf(paper, embedded, logo=logo, more_fonts=more_fonts)
    return Rendered(pdf=made, xml=xml, memory=_memory())


def _memory() -> int:
    # On Linux `ru_maxrss` begins with what the parent held when it started this process.
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
