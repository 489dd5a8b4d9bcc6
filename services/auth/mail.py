"""Sending mail: to a folder in development, by SMTP where a server is set."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit
from uuid import UUID

import aiosmtplib

from services.auth.settings import AuthSettings
from shared.files import private_folder

#: From this on an SMTP answer is final (RFC 5321, 4.2.1).
PERMANENT = 500
TIMEOUT_SECONDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """A mail as it goes out. Its id makes a repeat recognizable: it is the Message-ID."""

    id: UUID
    to: str
    subject: str
    text: str
    dated: datetime


class MailRefused(Exception):
    """The mail did not go out; `final` when trying again is pointless."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


Send = Callable[[Letter], Awaitable[None]]


class Mailer(Protocol):
    """Two exist: a folder, and a mail server."""

    def connected(self) -> AbstractAsyncContextManager[Send]:
        """What sends letters, for the block. It and each letter may raise `MailRefused`."""


class FolderMailer:
    """Every mail is a file `<address>/<id>.txt`; ids sort by time, so the newest is last."""

    def __init__(self, folder: Path, *, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        async def send(letter: Letter) -> None:
            await asyncio.to_thread(self._write, letter)

        yield send

    def _write(self, letter: Letter) -> None:
        # Quoting leaves no slash in a name, so an address cannot point outside of the folder.
        box = self._folder / quote(letter.to.lower(), safe="@+-_.")
        lines = [
            f"From: {self._sender}",
            f"To: {letter.to}",
            f"Subject: {letter.subject}",
            f"Date: {format_datetime(letter.dated)}",
            f"Message-ID: <{letter.id}@perennial>",
            "",
            letter.text,
        ]
        try:
            private_folder(self._folder)
            private_folder(box)
            written = box / f".{letter.id}"
            written.write_text("\n".join(lines), encoding="utf-8")
            written.rename(box / f"{letter.id}.txt")  # whole or not at all
        except OSError as error:
            raise MailRefused(f"cannot write the mail: {error.strerror}", final=False) from error


class SmtpMailer:
    """Hands mails to a mail server. Encrypted where the server offers it."""

    def __init__(self, url: str, *, sender: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"smtp", "smtps"} or not parts.hostname:
            raise ValueError("PERENNIAL_SMTP_URL must look like smtp://user:password@host:587")
        self._host = parts.hostname
        self._tls = parts.scheme == "smtps"
        self._port = parts.port or (465 if self._tls else 587)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password) if parts.password else None
        self._sender = sender

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        client = aiosmtplib.SMTP(
            hostname=self._host,
            port=self._port,
            username=self._user,
            password=self._password,
            use_tls=self._tls,
            timeout=TIMEOUT_SECONDS,
        )

        async def send(letter: Letter) -> None:
            try:
                await client.send_message(self._message(letter))
            except aiosmtplib.SMTPRecipientsRefused as error:
                final = all(refused.code >= PERMANENT for refused in error.recipients)
                raise MailRefused("the server refused the recipient", final=final) from error
            except aiosmtplib.SMTPResponseException as error:
                raise MailRefused(f"answer {error.code}", final=error.code >= PERMANENT) from error
            except (aiosmtplib.SMTPException, OSError) as error:
                raise MailRefused(type(error).__name__, final=False) from error

        try:
            await client.connect()
        except aiosmtplib.SMTPResponseException as error:
            # Also when it refuses our password: the operator's mistake, so the mail waits.
            raise MailRefused(f"answer {error.code} to connecting", final=False) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise MailRefused(type(error).__name__, final=False) from error
        try:
            yield send
        finally:
            with suppress(aiosmtplib.SMTPException, OSError):
                await client.quit()

    def _message(self, letter: Letter) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = letter.to
        message["Subject"] = letter.subject
        message["Date"] = letter.dated
        domain = parseaddr(self._sender)[1].rpartition("@")[2] or "perennial"
        message["Message-ID"] = f"<{letter.id}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(letter.text)
        return message


def mailer(settings: AuthSettings) -> Mailer:
    """As the settings say: a mail server where one is named, else files."""
    if settings.smtp_url is not None:
        return SmtpMailer(settings.smtp_url.get_secret_value(), sender=settings.mail_from)
    return FolderMailer(settings.mail_dir, sender=settings.mail_from)
