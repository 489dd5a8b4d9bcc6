"""A file that somebody adds to an account or an invoice: declared first, checked at the end."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from shared.errors import Conflict, Invalid, NotFound

#: The beginning of the keys of what nobody has checked yet.
UPLOADS = "uploads"


class AttachmentNotFound(NotFound):
    code = "attachment-not-found"


class AttachmentNotUploaded(Conflict):
    code = "attachment-not-uploaded"


class AttachmentComplete(Conflict):
    code = "attachment-complete"


class AttachmentMismatch(Invalid):
    code = "attachment-mismatch"


class AttachmentState(StrEnum):
    DECLARED = "declared"
    COMPLETE = "complete"


@dataclass(eq=False, kw_only=True)
class Attachment:
    id: UUID
    account_id: UUID
    invoice_id: UUID | None
    filename: str
    content_type: str
    size: int
    sha256: str
    state: AttachmentState = AttachmentState.DECLARED
    created_at: datetime
    completed_at: datetime | None = None

    @property
    def upload_key(self) -> str:
        """Where the link of a declared one lets anybody who holds it write."""
        return f"{UPLOADS}/{self.account_id}/{self.id}"

    @property
    def key(self) -> str:
        """Where it is once it was checked. No link writes here: what was checked is what stays."""
        return f"attachments/{self.account_id}/{self.id}"

    def require_declared(self) -> None:
        if self.state is not AttachmentState.DECLARED:
            raise AttachmentComplete("This attachment is complete and never changes.")

    def check(self, data: bytes) -> None:
        """Refuse what is not, byte for byte, what was declared."""
        self.check_size(len(data))
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise AttachmentMismatch("The SHA-256 is not the declared one.", field="sha256")

    def check_size(self, size: int) -> None:
        if size != self.size:
            raise AttachmentMismatch(
                f"{size} bytes came and {self.size} were declared.", field="size"
            )

    def complete(self, *, at: datetime) -> None:
        self.require_declared()
        self.state = AttachmentState.COMPLETE
        self.completed_at = at
