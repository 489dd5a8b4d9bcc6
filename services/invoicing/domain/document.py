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

    def key(self, kind: str, digest: str | None = None) -> str:
        """Where a file is in the object store: what was recorded, or one with this SHA-256.

        The content is in the name: two who make the same document at once, perhaps in two
        releases, never mix their files.
        """
        digest = digest or (self.pdf_sha256 if kind == "pdf" else self.xml_sha256)
        return f"documents/{self.account_id}/{self.id}/{digest}.{kind}"

    def claim(self, *, at: datetime, lease_seconds: float) -> None:
        """Take it up; when we die over it somebody else does after the lease."""
        self.attempts += 1
        self.due_at = at + timedelta(seconds=lease_seconds)

    @property
    def spent(self) -> bool:
        """Taken up as often as is sensible, and never finished: it may end whoever renders it."""
        return self.attempts >= MOST_ATTEMPTS

    def made(self, *, pdf: tuple[int, str], xml: tuple[int, str]) -> None:
        """Its files are stored. Who comes second, after a lease ran out, changes nothing."""
        if self.state is DocumentState.READY:
            return
        self.state = DocumentState.READY
        self.error = None
        self.pdf_size, self.pdf_sha256 = pdf
        self.xml_size, self.xml_sha256 = xml

    def failed(self, error: str, *, at: datetime) -> None:
        """Again later, with a growing pause, and then no more."""
        self.error = error
        if self.spent:
            self.state = DocumentState.FAILED
        self.due_at = at + timedelta(seconds=5 * 4**self.attempts)

    def park(self, error: str) -> None:
        """What would fail in the same way again waits for a person at once."""
        self.error = error
        self.state = DocumentState.FAILED

    def again(self, *, at: datetime) -> None:
        """Make it anew: its reason to fail is gone, or its files are."""
        self.state = DocumentState.PENDING
        self.error = None
        self.attempts = 0
        self.due_at = at
        self.pdf_size = self.pdf_sha256 = self.xml_size = self.xml_sha256 = None
