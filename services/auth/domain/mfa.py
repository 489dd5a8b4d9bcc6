"""A second factor: time-based codes, each accepted once, and backup codes."""

import base64
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import pyotp

from services.auth.domain.sessions import fingerprint
from shared.errors import Conflict, Invalid, NotFound, Unauthenticated

BACKUP_CODES = 10
#: RFC 6238's step.
STEP_SECONDS = 30


class SecondFactorRequired(Unauthenticated):
    """The password is right; send a code from the authenticator, or a backup code, too."""

    code = "second-factor-required"

    def __init__(self) -> None:
        super().__init__("Send `totp` too: a code from the authenticator, or a backup code.")


class SecondFactorWrong(Unauthenticated):
    """The code is wrong, too old, or was used already."""

    code = "second-factor-wrong"

    def __init__(self) -> None:
        super().__init__("The code is wrong, too old, or was used already.")


class TotpCodeRefused(Invalid):
    """The first code does not match the new secret."""

    code = "totp-code-refused"


class TotpAlreadyOn(Conflict):
    """A second factor is on: turn it off before setting up another."""

    code = "totp-already-on"


class TotpNotOn(NotFound):
    """There is no second factor to confirm or to turn off."""

    code = "totp-not-on"


def new_backup_code() -> str:
    """120 random bits in four groups, so that a plain hash of it is safe to store."""
    text = base64.b32encode(secrets.token_bytes(15)).decode().lower()
    return "-".join(text[i : i + 6] for i in range(0, len(text), 6))


@dataclass(eq=False, kw_only=True)
class Totp:
    """A user's authenticator. Off until its first code has been confirmed."""

    user_id: UUID
    secret: str
    confirmed_at: datetime | None = None
    #: The last accepted step: a code of this or an earlier step was used or has passed.
    last_step: int = 0
    backup_hashes: list[str] = field(default_factory=list)
    created_at: datetime

    @classmethod
    def enroll(cls, *, user_id: UUID, at: datetime) -> "Totp":
        return cls(user_id=user_id, secret=pyotp.random_base32(32), created_at=at)

    @property
    def is_on(self) -> bool:
        return self.confirmed_at is not None

    def provisioning_uri(self, *, label: str) -> str:
        return pyotp.TOTP(self.secret).provisioning_uri(name=label, issuer_name="Perennial")

    def confirm(self, code: str, *, at: datetime) -> list[str]:
        """Turn it on with a first code. Gives the backup codes, which are shown this once."""
        if self.is_on:
            raise TotpAlreadyOn("A second factor is on already.")
        if not self._accept(code, at=at):
            raise TotpCodeRefused(
                "The code does not match; check the clock of the device.", field="code"
            )
        self.confirmed_at = at
        codes = [new_backup_code() for _ in range(BACKUP_CODES)]
        self.backup_hashes = [fingerprint(code).hex() for code in codes]
        return codes

    def check(self, code: str, *, at: datetime) -> None:
        """Accept a code or a backup code, once."""
        if not (self._accept(code, at=at) or self._spend(code)):
            raise SecondFactorWrong

    def _accept(self, code: str, *, at: datetime) -> bool:
        totp = pyotp.TOTP(self.secret)
        now = int(at.timestamp()) // STEP_SECONDS
        # One step either way: clocks differ, and people type slowly.
        for step in (now - 1, now, now + 1):
            expected = totp.at(step * STEP_SECONDS)
            if step > self.last_step and secrets.compare_digest(expected.encode(), code.encode()):
                self.last_step = step
                return True
        return False

    def _spend(self, code: str) -> bool:
        spent = fingerprint(code.strip().lower()).hex()
        if spent not in self.backup_hashes:
            return False
        self.backup_hashes = [kept for kept in self.backup_hashes if kept != spent]
        return True
