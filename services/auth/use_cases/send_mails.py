"""Send what waits. Spans transactions: a mail server is slow, and rows are not held meanwhile."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from uuid import UUID

from services.auth.domain.mail import Mail, Template, plain_name
from services.auth.letters import write
from services.auth.mail import Letter, Mailer, MailRefused
from services.auth.repository import AuthUnitOfWork
from services.auth.use_cases.mail_tokens import answer_asked_mail
from shared.clock import utc_now
from shared.observability import logger

log = logger(__name__)

Begin = Callable[[], AbstractAsyncContextManager[AuthUnitOfWork]]

BATCH = 20
#: Mails that somebody asked for by typing an address.
ASKED_FOR = frozenset({Template.RESET_PASSWORD, Template.VERIFY_EMAIL, Template.SIGN_UP})


async def send_mails(begin: Begin, mailer: Mailer, *, public_url: str, now: datetime) -> int:
    """Take a batch, send it, write down how it went. Gives how many were taken.

    A worker that dies between sending and writing repeats a mail; its Message-ID stays the same.
    """
    async with begin() as uow:
        taken = await uow.mails.next_due(at=now, limit=BATCH)
        letters = [await _prepare(uow, mail, public_url=public_url, now=now) for mail in taken]
    outcomes = await _send(mailer, [letter for letter in letters if letter is not None])
    async with begin() as uow:
        for mail_id, refused in outcomes.items():
            mail = await uow.mails.get(mail_id)
            if mail is None:
                continue
            if refused is None:
                mail.sent(at=utc_now())
            else:
                mail.failed(str(refused), final=refused.final, at=utc_now())
    return len(taken)


async def _send(mailer: Mailer, letters: list[Letter]) -> dict[UUID, MailRefused | None]:
    """How it went for each. Where nobody is there to take them, all are refused for now."""
    outcomes: dict[UUID, MailRefused | None] = {}
    if not letters:
        return outcomes
    try:
        async with mailer.connected() as send:
            for letter in letters:
                try:
                    await send(letter)
                    outcomes[letter.id] = None
                except MailRefused as refused:
                    outcomes[letter.id] = refused
                    log.warning("A mail did not go out", mail=str(letter.id), final=refused.final)
    except MailRefused as away:
        log.warning("No mail goes out", reason=str(away))
        outcomes = {letter.id: away for letter in letters}
    return outcomes


async def _prepare(
    uow: AuthUnitOfWork, mail: Mail, *, public_url: str, now: datetime
) -> Letter | None:
    mail.claim(at=now)
    address, greeting = mail.address, None
    if mail.user_id is not None:
        details = await uow.users.details(mail.user_id)
        address = details.email if details else None
        greeting = plain_name(details.full_name) if details else None
    elif mail.template in ASKED_FOR:
        address = await answer_asked_mail(uow, mail, now=now)
    if address is None:
        mail.drop()
        return None
    subject, text = write(mail.template, mail.facts, greeting=greeting, public_url=public_url)
    return Letter(id=mail.id, to=address, subject=subject, text=text, dated=mail.dated)
