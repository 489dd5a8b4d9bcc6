"""A sign-up that nobody has confirmed yet: words of whoever typed an address, and no more."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.auth.domain.accounts import checked_country, checked_zone
from services.auth.domain.users import address_key
from shared.errors import Invalid
from shared.ids import new_id

#: As long as the mail that confirms it can be used.
REGISTRATION_LIFE = timedelta(days=2)
#: Of the sign-ups with one address the newest count: each is compared with the password that
#: comes with the mailed token, and that takes time.
COMPARED = 3


class PasswordRequired(Invalid):
    """The mail proves the address and not who signed up, so the password has to come with it."""

    code = "password-required"


@dataclass(eq=False, kw_only=True)
class Registration:
    """What a sign-up set.

    It takes effect when the address is proven by somebody who knows its password; anybody else who
    proves the address starts afresh, and this is dropped. There may be several with one address: a
    stranger's does not keep the owner's out.
    """

    #: The id that the user will have …
    id: UUID
    #: … and the one of their account.
    account_id: UUID
    email: str
    address_key: str
    password_hash: str
    full_name: str | None
    account_name: str | None
    country: str
    time_zone: str
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(
        cls,
        *,
        email: str,
        password_hash: str,
        full_name: str | None,
        account_name: str | None,
        country: str,
        time_zone: str,
        at: datetime,
    ) -> "Registration":
        return cls(
            id=new_id(),
            account_id=new_id(),
            email=email,
            address_key=address_key(email),
            password_hash=password_hash,
            full_name=full_name,
            account_name=account_name,
            country=checked_country(country),
            time_zone=checked_zone(time_zone),
            created_at=at,
            expires_at=at + REGISTRATION_LIFE,
        )
