"""The HTTP edge that all services share."""

from shared.pages import Cursor, Page, PageRequest
from shared.web.app import create_app
from shared.web.bodies import Instant, RequestModel
from shared.web.edge import (
    Edge,
    Reading,
    caller,
    command,
    keyed_command,
    listing,
    public_command,
    reading,
)
from shared.web.pages import page_request
from shared.web.problems import problems
from shared.web.rights import FOR_PEOPLE_OR_OPERATOR, Right, for_role, for_staff
from shared.web.routing import Router

__all__ = [
    "FOR_PEOPLE_OR_OPERATOR",
    "Cursor",
    "Edge",
    "Instant",
    "Page",
    "PageRequest",
    "Reading",
    "RequestModel",
    "Right",
    "Router",
    "caller",
    "command",
    "create_app",
    "for_role",
    "for_staff",
    "keyed_command",
    "listing",
    "page_request",
    "problems",
    "public_command",
    "reading",
]
