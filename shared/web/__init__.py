"""The HTTP edge that all services share."""

from shared.pages import Cursor, Page, PageRequest
from shared.web.app import create_app
from shared.web.edge import (
    Edge,
    Reading,
    caller,
    command,
    keyed_command,
    public_command,
    reading,
)
from shared.web.pages import page_request
from shared.web.problems import problems

__all__ = [
    "Cursor",
    "Edge",
    "Page",
    "PageRequest",
    "Reading",
    "caller",
    "command",
    "create_app",
    "keyed_command",
    "page_request",
    "problems",
    "public_command",
    "reading",
]
