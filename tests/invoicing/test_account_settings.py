"""What auth says of an account when it is made and changed, and what invoicing keeps of it."""

from services.invoicing.queries import read_account
from services.invoicing.use_cases.take_in_account import take_in_account
from shared.clock import utc_now
from shared.events.auth import AccountRegistered, AccountUpdated
from shared.ids import new_id
from tests.harness import Running
from tests.invoicing.conftest import NewAccount
from tests.tokens import TokenIssuer


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


async def test_support_corrects_an_address_and_leaves_what_decides_about_money(
    invoicing: Running, new_account: NewAccount, issuer: TokenIssuer
) -> None:
    account_id = await new_account()
    acting = {"Perennial-Account": str(account_id)}
    finance = issuer.of_staff("finance") | acting
    support = issuer.of_staff("support") | acting
    moved = {"address": {"country": "DE", "city": "Bonn"}}
    exempt = {"exemption_reason": "An embassy", "consolidated_billing": True}
    path = "/v1/billing-details"

    assert (await invoicing.http.put(path, json=exempt, headers=finance)).status_code == 200
    refused = await invoicing.http.put(path, json=moved | exempt, headers=support)
    corrected = (await invoicing.http.put(path, json=moved, headers=support)).json()
    cleared = (await invoicing.http.put(path, json=moved, headers=finance)).json()

    assert refused.status_code == 403
    assert corrected["address"]["city"] == "Bonn"
    assert corrected["exemption_reason"] == "An embassy"
    assert corrected["consolidated_billing"]
    assert cleared["exemption_reason"] is None


async def test_a_legal_entity_that_is_not_there_is_said_to_be(
    invoicing: Running, new_account: NewAccount, issuer: TokenIssuer
) -> None:
    finance = issuer.of_staff("finance") | {"Perennial-Account": str(await new_account())}
    details = {"legal_entity_id": str(new_id())}

    answer = await invoicing.http.put("/v1/billing-details", json=details, headers=finance)

    assert (answer.status_code, answer.json()["code"]) == (404, "legal-entity-not-found")
