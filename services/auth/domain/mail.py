"""Mail that waits to be sent: written with what caused it, sent by a worker afterwards."""

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.ids import new_id

#: Waits between tries; after the last one a person has to look.
BACKOFF = tuple(
    timedelta(seconds=seconds) for seconds in (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600)
)
#: A worker that dies while sending holds the mail back this long.
CLAIM = timedelta(seconds=120)


#: How much of a name stands in a mail.
LONGEST_NAME = 60
#: What mail programs turn into a link: an address of the web or of mail, or what looks like one.
_LINK = re.compile(r"://|@|^www\.|\w\.\w{2,}|/", re.IGNORECASE)


def plain_name(text: str | None) -> str | None:
    """Somebody's words as they may stand in a mail to somebody else, who did not ask for them.

    One short line without links and invisible characters; None when nothing is left.
    """
    folded = unicodedata.normalize("NFKC", text or "")
    seen = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in folded)
    words = [word for word in seen.split() if not _LINK.search(word)]
    return " ".join(words)[:LONGEST_NAME].strip() or None


class Template(StrEnum):
    #: Of an earlier release; `SIGN_UP` says the same now.
    VERIFY_EMAIL = "verify_email"
    SIGN_UP = "sign_up"
    ACCOUNT_EXISTS = "account_exists"
    RESET_PASSWORD = "reset_password"  # noqa: S105 -- the name of a mail
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 -- the same
    SECOND_FACTOR_CHANGED = "second_factor_changed"
    CHANGE_EMAIL = "change_email"
    ADDRESS_CHANGED = "address_changed"
    INVITATION = "invitation"
    INVOICE_PAID = "invoice_paid"
    PAYMENT_FAILED = "payment_failed"
    PAYMENT_ACTION_REQUIRED = "payment_action_required"
    CARD_NEEDED = "card_needed"
    CARD_EXPIRES = "card_expires"
    DUNNING_EXHAUSTED = "dunning_exhausted"
    TRIAL_WILL_END = "trial_will_end"
    SUBSCRIPTION_CANCELED = "subscription_canceled"
    CREDIT_NOTE_ISSUED = "credit_note_issued"


class MailStatus(StrEnum):
    WAITING = "waiting"
    SENT = "sent"
    FAILED = "failed"
    DROPPED = "dropped"  # nobody to send it to (any more)


@dataclass(eq=False, kw_only=True)
class Mail:
    """One mail to one address. What it says is wiped once it is out: tokens are in there."""

    id: UUID
    #: Whom it is to; the address is looked up when it is sent. Null: `address` says it.
    user_id: UUID | None
    address: str | None
    template: Template
    facts: dict[str, Any]
    #: The date it carries: the account's time, which a test clock may have moved.
    dated: datetime
    status: MailStatus = MailStatus.WAITING
    attempts: int = 0
    #: Real time: when a worker may take it (again).
    next_attempt_at: datetime
    sent_at: datetime | None = None
    last_error: str | None = None
    created_at: datetime

    @classmethod
    def to_user(
        cls, user_id: UUID, template: Template, *, dated: datetime, at: datetime, **facts: Any
    ) -> "Mail":
        return cls._write(user_id, None, template, facts, dated=dated, at=at)

    @classmethod
    def to_address(
        cls, address: str, template: Template, *, dated: datetime, at: datetime, **facts: Any
    ) -> "Mail":
        return cls._write(None, address, template, facts, dated=dated, at=at)

    @classmethod
    def _write(
        cls,
        user_id: UUID | None,
        address: str | None,
        template: Template,
        facts: dict[str, Any],
        *,
        dated: datetime,
        at: datetime,
    ) -> "Mail":
        return cls(
            id=new_id(),
            user_id=user_id,
            address=address,
            template=template,
            facts=facts,
            dated=dated,
            next_attempt_at=at,
            created_at=at,
        )

    def claim(self, *, at: datetime) -> None:
        self.attempts += 1
        self.next_attempt_at = at + CLAIM

    def sent(self, *, at: datetime) -> None:
        self.status = MailStatus.SENT
        self.sent_at = at
        self._wipe()

    def drop(self) -> None:
        self.status = MailStatus.DROPPED
        self._wipe()

    def failed(self, error: str, *, final: bool, at: datetime) -> None:
        """Try again later, unless the mail server will never take it."""
        self.last_error = error[:300]
        if final or self.attempts > len(BACKOFF):
            self.status = MailStatus.FAILED
            self._wipe()
        else:
            self.next_attempt_at = at + BACKOFF[self.attempts - 1]

    def _wipe(self) -> None:
        self.address = None
        self.facts = {}


@dataclass(eq=False, kw_only=True)
class SettledInvoice:
    """Remembered, so that a mail asking for money is not written after the money came."""

    invoice_id: UUID
    account_id: UUID
    settled_at: datetime
