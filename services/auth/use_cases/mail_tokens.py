"""Mail a token that proves who reads an address."""

from datetime import datetime
from uuid import UUID

from services.auth.domain.mail import Mail, Template
from services.auth.domain.sessions import MailedToken, Purpose, new_secret
from services.auth.domain.users import UserStatus, address_key
from services.auth.repository import AuthUnitOfWork


async def mail_verification(uow: AuthUnitOfWork, user_id: UUID, *, now: datetime) -> None:
    """A token to confirm the address with; older ones stop working."""
    secret = new_secret()
    await uow.mailed_tokens.replace(
        MailedToken.make(secret, user_id=user_id, purpose=Purpose.VERIFY_EMAIL, at=now)
    )
    uow.mail(Mail.to_user(user_id, Template.VERIFY_EMAIL, dated=now, at=now, token=secret))


def ask_for_mail(uow: AuthUnitOfWork, email: str, template: Template, *, now: datetime) -> None:
    """Note that somebody typed this address and wants a token mailed to it.

    Whether anybody has the address is found out by the worker that sends mail, so that the
    answer, and the time that it takes, are the same for every address.
    """
    uow.mail(Mail.to_address(address_key(email), template, dated=now, at=now))


async def answer_asked_mail(uow: AuthUnitOfWork, mail: Mail, *, now: datetime) -> str | None:
    """Make the token that was asked for. Gives the real address, or None: nothing is to be sent."""
    user = await uow.users.find_by_address(mail.address or "")
    wanted = {
        Template.RESET_PASSWORD: (UserStatus.ACTIVE, Purpose.RESET_PASSWORD),
        Template.VERIFY_EMAIL: (UserStatus.PENDING, Purpose.VERIFY_EMAIL),
    }[mail.template]
    if user is None or user.status is not wanted[0]:
        return None
    details = await uow.users.details(user.id)
    if details is None:
        return None
    secret = new_secret()
    await uow.mailed_tokens.replace(
        MailedToken.make(secret, user_id=user.id, purpose=wanted[1], at=now)
    )
    mail.facts = {"token": secret}
    return details.email
