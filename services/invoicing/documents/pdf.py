"""PDF/A-3 with the e-invoice embedded (Factur-X); the same input gives the same bytes."""

import io
import re
import unicodedata
import warnings
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import orjson
import pikepdf
import typst

from services.invoicing.documents.view import view_of

TEMPLATE = Path(__file__).with_name("document.typ")
#: What comes with it: see the README in that folder.
FONTS = Path(__file__).with_name("fonts")
STANDARD: Literal["a-3b"] = "a-3b"
#: The first text that no font has, in what typst says about PDF/A.
UNDRAWN = re.compile(r"the text `\"(.+?)\"` could not be displayed", re.DOTALL)
UNSUPPORTED = re.compile(r"could not be displayed|not supported")
#: Zero-width joiners and variation selectors.
JOINERS = dict.fromkeys((0x200C, 0x200D, *range(0xFE00, 0xFE10)))
#: Pages with more characters than that which no font has are drawn with Latin letters alone.
MOST_UNDRAWN = 50
#: Where the letters end that the fonts are sure to have, and what else they have.
LATIN, PUNCTUATION = 0x250, "\u20ac\u2013\u2014\u2019\u201c\u201d\u2212\u2026"

#: https://fnfe-mpe.org/factur-x/: the four properties and their PDF/A extension schema.
FACTUR_X = b"""<rdf:Description rdf:about="" \
xmlns:fx="urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#">\
<fx:DocumentType>INVOICE</fx:DocumentType><fx:DocumentFileName>factur-x.xml</fx:DocumentFileName>\
<fx:Version>1.0</fx:Version><fx:ConformanceLevel>EN 16931</fx:ConformanceLevel></rdf:Description>\
<rdf:Description rdf:about="" xmlns:pdfaExtension="http://www.aiim.org/pdfa/ns/extension/" \
xmlns:pdfaSchema="http://www.aiim.org/pdfa/ns/schema#" \
xmlns:pdfaProperty="http://www.aiim.org/pdfa/ns/property#"><pdfaExtension:schemas><rdf:Bag>\
<rdf:li rdf:parseType="Resource"><pdfaSchema:schema>Factur-X PDFA Extension Schema\
</pdfaSchema:schema><pdfaSchema:namespaceURI>\
urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#</pdfaSchema:namespaceURI>\
<pdfaSchema:prefix>fx</pdfaSchema:prefix><pdfaSchema:property><rdf:Seq>%b</rdf:Seq>\
</pdfaSchema:property></rdf:li></rdf:Bag></pdfaExtension:schemas></rdf:Description></rdf:RDF>"""
PROPERTY = b"""<rdf:li rdf:parseType="Resource"><pdfaProperty:name>%b</pdfaProperty:name>\
<pdfaProperty:valueType>Text</pdfaProperty:valueType><pdfaProperty:category>external\
</pdfaProperty:category><pdfaProperty:description>%b</pdfaProperty:description></rdf:li>"""
PROPERTIES = (
    (b"DocumentFileName", b"name of the embedded XML invoice file"),
    (b"DocumentType", b"INVOICE"),
    (b"Version", b"version of the Factur-X XML schema"),
    (b"ConformanceLevel", b"conformance level of the embedded Factur-X data"),
)


def pdf(
    paper: dict[str, Any], xml: bytes, *, logo: bytes | None = None, more_fonts: str | None = None
) -> bytes:
    """The document with `xml` in it.

    `more_fonts` is a folder. A character that no font has would be an error in PDF/A: it is
    replaced, so that there always is a document. A logo that is no image is left out.
    """
    issued = datetime.fromisoformat(paper["issued_at"])
    view = orjson.dumps(view_of(paper, logo)).decode()
    for _ in range(MOST_UNDRAWN):
        try:
            return _as_factur_x(_compile(view, xml, issued, more_fonts))
        except typst.TypstError as error:
            if missing := UNDRAWN.search(error.message):
                lacking = {c for c in missing.group(1) if not (c.isascii() or c.isspace())}
                # A space alone is meant where what it was to be joined with is gone.
                view = view.translate({ord(c): _instead(c) for c in lacking} or JOINERS)
            elif not UNSUPPORTED.search(error.message):
                if logo is None:
                    raise
                logo, view = None, orjson.dumps(view_of(paper, None)).decode()
            else:
                break
    plain = "".join(c if ord(c) < LATIN or c in PUNCTUATION else "?" for c in view)
    return _as_factur_x(_compile(plain, xml, issued, more_fonts))


def _instead(character: str) -> str:
    """A pictogram is decoration; of anything else it is seen that something is missing."""
    return "" if unicodedata.category(character) in {"So", "Sk", "Mn", "Me", "Cf"} else "?"


@cache
def _compiler(more_fonts: str | None) -> typst.Compiler:
    """Draws with the fonts that come with it, and not with what happens to be installed."""
    fonts = typst.Fonts(
        include_system_fonts=False, font_paths=[str(FONTS), *([more_fonts] if more_fonts else [])]
    )
    return typst.Compiler(input=str(TEMPLATE), root=str(TEMPLATE.parent), font_paths=fonts)


def _compile(view: str, xml: bytes, issued: datetime, more_fonts: str | None) -> bytes:
    with warnings.catch_warnings():
        # Families that are not there: the next in the list draws.
        warnings.simplefilter("ignore")
        made = _compiler(more_fonts).compile(
            format="pdf",
            sys_inputs={"paper": view, "xml": xml.decode()},
            pdf_standards=[STANDARD],
            timestamp=int(issued.timestamp()),
        )
    if not isinstance(made, bytes):
        raise TypeError("typst gave no document")
    return made


def _as_factur_x(made: bytes) -> bytes:
    """Say in the metadata that the attachment is the invoice."""
    with pikepdf.open(io.BytesIO(made)) as document:
        metadata = document.Root.Metadata
        properties = b"".join(PROPERTY % pair for pair in PROPERTIES)
        packet = metadata.read_bytes().replace(b"</rdf:RDF>", FACTUR_X % properties)
        metadata.write(packet)
        out = io.BytesIO()
        document.save(out, deterministic_id=True)
    return out.getvalue()
