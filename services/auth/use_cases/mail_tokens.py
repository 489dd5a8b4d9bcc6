"""Mail a token that proves who reads an address."""

from datetime import datetime

from services.auth.domain.mail import Mail, Template
from services.auth.domain.sessions import MailedToken, Purpose, new_secret
from services.auth.domain.users import User, UserStatus, address_key
from services.auth.repository import AuthUnitOfWork


def ask_for_mail(uow: AuthUnitOfWork, email: str, template: Template, *, now: datetime) -> None:
    """Note that somebody typed this address and wants a token mailed to it.

    Whether anybody has the address is found out by the worker that sends mail, so that the
    answer, and the time that it takes, are the same for every address.
    """
    uow.mail(Mail.to_address(address_key(email), template, dated=now, at=now))


async def answer_asked_mail(uow: AuthUnitOfWork, mail: Mail, *, now: datetime) -> str | None:
    """Make the token that was asked for. Gives the real address, or None: nothing is to be sent.

    What is sent follows from the state of the address and not only from what was asked for: to
    somebody who forgot the password of a sign-up that was never confirmed, its confirmation.
    """
    address = mail.address or ""
    user = await uow.users.find_by_address(address)
    if user is None or user.status is UserStatus.PENDING:
        return await _confirm_sign_up(uow, mail, user, address, now=now)
    details = await uow.users.details(user.id)
    if details is None or user.status is not UserStatus.ACTIVE:
        return None
    if mail.template is Template.RESET_PASSWORD:
        secret = new_secret()
        await uow.mailed_tokens.replace(
            MailedToken.make(
                secret,
                user_id=user.id,
                purpose=Purpose.RESET_PASSWORD,
                address_key=details.address_key,
                at=now,
            )
        )
        mail.facts = {"token": secret}
    else:
        mail.template = Template.ACCOUNT_EXISTS
    return details.email


async def _confirm_sign_up(
    uow: AuthUnitOfWork, mail: Mail, unconfirmed: User | None, address: str, *, now: datetime
) -> str | None:
    """A token for the address, if anybody signed up with it.

    Others for it go on working: they prove the same, and a stranger who signs up again must not
    void what the owner has in hand.
    """
    signed_up = await uow.registrations.with_address(address, at=now)
    if not signed_up and unconfirmed is None:
        return None
    secret = new_secret()
    uow.mailed_tokens.add(
        MailedToken.make(
            secret,
            user_id=None,
            purpose=Purpose.VERIFY_EMAIL,
            address_key=address_key(address),
            email=signed_up[0].email if signed_up else address,
            at=now,
        )
    )
    mail.template, mail.facts = Template.SIGN_UP, {"token": secret}
    return signed_up[0].email if signed_up else address
