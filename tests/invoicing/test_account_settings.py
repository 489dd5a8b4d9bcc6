"""What auth says of an account when it is made and changed, and what invoicing keeps of it."""

from services.invoicing.queries import read_account
from services.invoicing.use_cases.take_in_account import take_in_account
from shared.clock import utc_now
from shared.events.auth import AccountRegistered, AccountUpdated
from shared.ids import new_id
from tests.harness import Running


async def test_documents_are_in_the_language_that_the_account_was_made_with(
    invoicing: Running,
) -> None:
    account_id = new_id()
    facts = {"occurred_at": utc_now(), "account_id": account_id, "country": "FR"}

    for event, language in (
        (AccountRegistered(**facts, time_zone="UTC", sequence=1, language="fr"), "fr"),
        (AccountUpdated(**facts, time_zone="UTC", sequence=2), "fr"),
        (AccountUpdated(**facts, time_zone="UTC", sequence=3, language="de"), "de"),
    ):
        async with invoicing.runtime.begin() as uow:
            await take_in_account(uow, event)
        async with invoicing.runtime.begin() as uow:
            assert (await read_account(uow, account_id)).language == language
