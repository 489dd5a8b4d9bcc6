"""The files of an invoice or a credit note, and whether they are made yet."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from shared.errors import Conflict, NotFound

#: What failed so often is for a person.
MOST_ATTEMPTS = 5


class DocumentNotReady(Conflict):
    code = "document-not-ready"


class DocumentNotFound(NotFound):
    code = "document-not-found"


class DocumentState(StrEnum):
    PENDING = "pending"
    READY = "ready"
    FAILED = "failed"


class Subject(StrEnum):
    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"


@dataclass(eq=False, kw_only=True)
class Document:
    """PDF and XML of one subject. Real time, whatever the account's clock says."""

    id: UUID  # the subject's
    account_id: UUID
    subject: Subject
    created_at: datetime
    state: DocumentState = DocumentState.PENDING
    #: While it is rendered: when somebody else may take it up.
    due_at: datetime
    attempts: int = 0
    error: str | None = None
    pdf_size: int | None = None
    pdf_sha256: str | None = None
    xml_size: int | None = None
    xml_sha256: str | None = None

    def key(self, kind: str) -> str:
        """Where it is in the object store; written once."""
        return f"documents/{self.account_id}/{self.id}.{kind}"

    def claim(self, *, at: datetime, lease_seconds: float) -> None:
        """Take it up; when we die over it somebody else does after the lease."""
        self.attempts += 1
        self.due_at = at + timedelta(seconds=lease_seconds)

    def made(self, *, pdf: tuple[int, str], xml: tuple[int, str]) -> None:
        self.state = DocumentState.READY
        self.error = None
        self.pdf_size, self.pdf_sha256 = pdf
        self.xml_size, self.xml_sha256 = xml

    def failed(self, error: str, *, at: datetime) -> None:
        """Again later, with a growing pause, and then no more."""
        self.error = error
        if self.attempts >= MOST_ATTEMPTS:
            self.state = DocumentState.FAILED
        self.due_at = at + timedelta(seconds=5 * 4**self.attempts)
