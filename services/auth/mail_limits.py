"""How many mails somebody may have us send to people who did not ask for them."""

from uuid import UUID

from services.auth.counters import Allowance, Counters, hashed, network_of
from services.auth.domain.mail import Template
from services.auth.domain.users import address_key
from shared.errors import TooManyRequests

HOUR, DAY = 3600, 86_400
#: Mails of one kind that an address gets, whoever asks for them.
TO_ONE_ADDRESS = 3
#: New addresses that somebody tries for themself in a day.
ADDRESS_CHANGES = 5
#: Invitations in a day from an account that was made today, from one that has not paid yet, and
#: from one that has. A user who opens many accounts sends no more than one of the second kind.
FROM_A_NEW_ACCOUNT, FROM_AN_ACCOUNT, FROM_A_PAYING_ACCOUNT = 5, 20, 100


class TooManyMails(TooManyRequests):
    """This would be one mail too many: to this address, or from this sender. Wait, then ask."""

    code = "too-many-mails"


class MailLimits:
    """Counts the mails that are asked for, before they are written.

    A mail that would be too many for one of the limits is counted by none.
    """

    def __init__(self, counters: Counters, *, from_one_network: int) -> None:
        self._counters = counters
        self._from_one_network = from_one_network

    async def asked(self, template: Template, email: str, ip: str | None) -> None:
        """A mail that anybody may ask for by typing an address."""
        await self._use(self._of_receiver(template, email), *self._of_network(ip))

    async def address_change(self, user_id: UUID, email: str, ip: str | None) -> None:
        await self._use(
            self._of_receiver(Template.CHANGE_EMAIL, email),
            Allowance(name=f"auth:mails:changes:{user_id}", most=ADDRESS_CHANGES, per_seconds=DAY),
            *self._of_network(ip),
        )

    async def invitation(
        self,
        account_id: UUID,
        user_id: UUID,
        email: str,
        ip: str | None,
        *,
        is_new: bool,
        has_paid: bool,
    ) -> None:
        most = FROM_A_PAYING_ACCOUNT if has_paid else FROM_AN_ACCOUNT
        await self._use(
            self._of_receiver(Template.INVITATION, email),
            Allowance(
                name=f"auth:mails:invitations:{account_id}",
                most=FROM_A_NEW_ACCOUNT if is_new and not has_paid else most,
                per_seconds=DAY,
            ),
            Allowance(name=f"auth:mails:invitations:by:{user_id}", most=most, per_seconds=DAY),
            *self._of_network(ip),
        )

    async def by_the_backend(self, template: Template, email: str) -> None:
        """The operator's own answers for what it sends; one address gets few all the same."""
        await self._use(self._of_receiver(template, email))

    def _of_receiver(self, template: Template, email: str) -> Allowance:
        # Kinds are counted apart, so that nobody keeps the mail that lets an owner in from them.
        return Allowance(
            name=f"auth:mails:to:{template.value}:{hashed(address_key(email))}",
            most=TO_ONE_ADDRESS,
            per_seconds=HOUR,
        )

    def _of_network(self, ip: str | None) -> list[Allowance]:
        if not self._from_one_network:
            return []
        return [
            Allowance(
                name=f"auth:mails:from:{network_of(ip)}",
                most=self._from_one_network,
                per_seconds=HOUR,
            )
        ]

    async def _use(self, *allowances: Allowance) -> None:
        left = await self._counters.use(allowances)
        if left:
            raise TooManyMails(
                "Too many mails were asked for. Wait, then ask again.",
                retry_after_seconds=-(-left // 1000),
            )
