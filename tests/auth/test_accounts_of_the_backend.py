"""Accounts that the operator's backend makes: nobody has to be in them, and all find them."""

import asyncio
import secrets
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import ClauseElement, Executable, Select, select, text
from sqlalchemy.ext.compiler import compiles

from services.auth.account_queries import Matching
from services.auth.tables import accounts
from services.auth.use_cases.create_operator_key import create_operator_key
from services.auth.use_cases.mail_billing_members import mail_about_card
from shared.clock import utc_now
from shared.events.auth import AccountRegistered, AccountUpdated
from shared.events.payments import PaymentMethodExpiring
from shared.ids import new_id
from shared.security import KeyScope
from tests.auth.people import PASSWORD, People, Person
from tests.eventlog import EventLog

Headers = dict[str, str]


@pytest.fixture
async def backend(people: People) -> Headers:
    """A key of the operator that may do all."""
    async with people.auth.runtime.begin() as uow:
        _, _, plain = await create_operator_key(
            uow, name="backend", scopes=list(KeyScope), now=utc_now()
        )
    return {"Authorization": f"Bearer {plain}"}


def unique(prefix: str = "x") -> str:
    return f"{prefix}{secrets.token_hex(6)}"


async def made(people: People, backend: Headers, **fields: Any) -> dict[str, Any]:
    answer = await people.http.post(
        "/v1/accounts", json={"name": "Acme Rockets", **fields}, headers=backend
    )
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ids(people: People, headers: Headers, **query: Any) -> list[str]:
    answer = await people.http.get("/v1/accounts", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]]


async def test_an_account_holds_what_the_backend_says_of_it_and_nobody_is_in_it(
    people: People, backend: Headers, events: EventLog
) -> None:
    external_id, email = unique("cust-"), people.address()

    account = await made(
        people,
        backend,
        email=email,
        external_id=external_id,
        metadata={"crm": "42"},
        country="FR",
        time_zone="Europe/Paris",
        language="fr",
        currency="EUR",
    )
    url = f"/v1/accounts/{account['id']}"
    read = await people.http.get(url, headers=backend)
    members = await people.http.get(f"{url}/members", headers=backend)

    assert read.json() == account
    assert (account["external_id"], account["email"]) == (external_id, email)
    assert (account["metadata"], account["language"]) == ({"crm": "42"}, "fr")
    assert members.json()["data"] == []
    heard = await events.next(AccountRegistered, about=UUID(account["id"]))
    assert (heard.country, heard.time_zone) == ("FR", "Europe/Paris")
    assert (heard.language, heard.currency) == ("fr", "EUR")
    assert email not in heard.model_dump_json()
    assert external_id not in heard.model_dump_json()


async def test_a_repeated_request_makes_one_account(people: People, backend: Headers) -> None:
    headers = {**backend, "Idempotency-Key": unique()}
    body = {"name": "Acme", "external_id": unique("cust-")}

    first = await people.http.post("/v1/accounts", json=body, headers=headers)
    again = await people.http.post("/v1/accounts", json=body, headers=headers)

    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"


async def test_an_external_id_is_one_accounts_and_the_refusal_says_whose(
    people: People, backend: Headers
) -> None:
    external_id = unique("cust-")
    body = {"name": "Acme", "external_id": external_id}

    answers = await asyncio.gather(
        *(people.http.post("/v1/accounts", json=body, headers=backend) for _ in range(5))
    )
    won = [one for one in answers if one.status_code == 201]
    lost = [one for one in answers if one.status_code == 409]
    other = await made(people, backend)
    moved = await people.http.patch(
        f"/v1/accounts/{other['id']}", json={"external_id": external_id}, headers=backend
    )

    assert (len(won), len(lost)) == (1, 4)
    for refused in [*lost, moved]:
        assert refused.json()["code"] == "external-id-taken"
        assert refused.json()["existing_id"] == won[0].json()["id"]


async def test_accounts_are_looked_up_listed_and_searched(people: People, backend: Headers) -> None:
    word, external_id, email = unique("zorb"), unique("cust-"), f"Pay.{unique()}@Example.com"
    account = await made(
        people,
        backend,
        name=f"The {word} Company",
        external_id=external_id,
        email=email,
        metadata={"tier": word, "region": "eu:west"},
        country="AT",
        currency="CHF",
    )
    await made(people, backend, name="Somebody else", metadata={"tier": "other"})
    mine = [account["id"]]

    assert await ids(people, backend, external_id=external_id) == mine
    assert await ids(people, backend, email=email.lower()) == mine
    assert await ids(people, backend, search=word[:8]) == mine
    assert await ids(people, backend, search=f"company {word.upper()}") == mine
    assert await ids(people, backend, search=email.lower().partition("@")[0]) == mine
    assert await ids(people, backend, search=external_id) == mine
    assert await ids(people, backend, metadata=f"tier:{word}") == mine
    assert mine[0] in await ids(people, backend, metadata="region:eu:west")
    assert mine[0] in await ids(people, backend, country="AT", currency="CHF", limit=200)
    assert await ids(people, backend, external_id=external_id, country="DE") == []
    assert await ids(people, backend, search=f"{word} nothing") == []
    assert await ids(people, backend, search="' | & !()", external_id=external_id) == mine


class Explained(Executable, ClauseElement):
    """How the database would answer a statement."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement


@compiles(Explained)
def _explain(element: Explained, compiler: Any, **how: Any) -> str:
    return f"EXPLAIN {compiler.process(element.statement, **how)}"


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Matching(external_id="cust-1"), "uq_accounts_external_id"),
        (Matching(email="ada@example.com"), "ix_accounts_email"),
        (Matching(words=["acme", "rock"]), "ix_accounts_words"),
        (Matching(metadata={"tier": "gold"}), "ix_accounts_metadata"),
    ],
)
async def test_looking_up_reads_no_account_but_those(
    people: People, wanted: Matching, index: str
) -> None:
    statement = select(accounts.c.id).where(*wanted.conditions())

    async with people.auth.runtime.begin() as uow:
        # A table of few rows is read whole, whatever indexes it has.
        await uow.session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = (await uow.session.execute(Explained(statement))).scalars().all()

    assert index in "\n".join(plan)


async def test_a_member_is_found_by_their_address(people: People, backend: Headers) -> None:
    person = await people.logged_in()

    assert await ids(people, backend, email=person.email) == [str(person.account_id)]


async def test_pages_tile_what_was_searched(people: People, backend: Headers) -> None:
    word = unique("page")
    made_ids = [(await made(people, backend, name=f"{word} {n}"))["id"] for n in range(5)]

    seen: list[str] = []
    cursor: str | None = None
    while True:
        query: dict[str, Any] = {"search": word, "limit": 2}
        if cursor:
            query["cursor"] = cursor
        page = (await people.http.get("/v1/accounts", params=query, headers=backend)).json()
        seen += [one["id"] for one in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == list(reversed(made_ids))


async def test_a_change_is_of_what_is_said_and_null_takes_away(
    people: People, backend: Headers, events: EventLog
) -> None:
    account = await made(
        people, backend, external_id=unique(), email=people.address(), metadata={"a": "1"}
    )
    url = f"/v1/accounts/{account['id']}"

    changed = await people.http.patch(
        url,
        json={"language": "de", "currency": "CHF", "metadata": {"b": "2"}, "email": None},
        headers={**backend, "If-Match": '"1"'},
    )
    same = await people.http.patch(url, json={"language": "de"}, headers=backend)

    found = changed.json()
    assert (found["language"], found["currency"], found["metadata"]) == ("de", "CHF", {"b": "2"})
    assert (found["email"], found["external_id"]) == (None, account["external_id"])
    assert found["name"] == account["name"]
    assert same.json()["version"] == found["version"] == 2
    heard = await events.next(AccountUpdated, about=UUID(account["id"]))
    assert (heard.language, heard.currency) == ("de", "CHF")


@pytest.mark.parametrize(
    "bad",
    [
        {"metadata": {"k": 1}},
        {"metadata": {"a key": "v"}},
        {"metadata": {"k": "v" * 501}},
        {"metadata": {f"k{n}": "v" for n in range(51)}},
        {"external_id": ""},
        {"external_id": "x" * 201},
        {"email": "nobody"},
        {"language": "english"},
        {"currency": "XXX"},
        {"country": "ZZ"},
        {"time_zone": "Mars/Olympus"},
        {"owner": "me"},
    ],
)
async def test_what_makes_no_sense_is_refused(
    people: People, backend: Headers, bad: dict[str, Any]
) -> None:
    answer = await people.http.post("/v1/accounts", json={"name": "x", **bad}, headers=backend)

    assert answer.status_code == 422, answer.text


async def test_members_neither_see_nor_set_what_is_the_operators(
    people: People, backend: Headers
) -> None:
    owner = await people.logged_in()
    url = f"/v1/accounts/{owner.account_id}"
    external_id = unique()
    await people.http.patch(
        url, json={"external_id": external_id, "metadata": {"k": "v"}}, headers=backend
    )

    seen = await people.http.get(url, headers=owner.headers)
    listed = await people.http.get("/v1/accounts", headers=owner.headers)
    refused = [
        await people.http.patch(url, json={name: value}, headers=owner.headers)
        for name, value in (("external_id", "x"), ("metadata", {}), ("email", "v@example.com"))
    ]
    allowed = await people.http.patch(url, json={"language": "fr"}, headers=owner.headers)

    assert external_id not in seen.text + listed.text + allowed.text
    assert seen.json()["metadata"] is None
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (403, "field-of-the-operator")
    assert allowed.json()["language"] == "fr"


async def test_a_key_of_an_account_sees_that_one_alone(people: People) -> None:
    owner = await people.logged_in()
    key = await people.http.post(
        f"/v1/accounts/{owner.account_id}/api-keys",
        json={"name": "x", "role": "owner", "scopes": ["accounts:read", "accounts:write"]},
        headers=owner.headers,
    )
    headers = {"Authorization": f"Bearer {key.json()['key']}"}
    another = await people.http.post("/v1/accounts", json={"name": "Another"}, headers=headers)

    assert await ids(people, headers) == [str(owner.account_id)]
    assert another.status_code == 403


async def test_mails_about_money_go_to_the_account_until_a_member_gets_them(
    people: People, backend: Headers
) -> None:
    email = people.address()
    account = await made(people, backend, email=email)
    staff = await people.staff()

    def expiring(month: int) -> PaymentMethodExpiring:
        return PaymentMethodExpiring(
            occurred_at=utc_now(),
            account_id=account["id"],
            sequence=month,
            payment_method_id=new_id(),
            exp_year=2031,
            exp_month=month,
        )

    async with people.auth.runtime.begin() as uow:
        await mail_about_card(uow, expiring(3))
    first = await people.mail(email, "Your card expires")
    invited = await people.http.post(
        f"/v1/accounts/{account['id']}/invitations",
        json={"email": people.address(), "role": "billing"},
        headers=staff.headers,
    )
    assert invited.status_code == 201, invited.text
    address = invited.json()["email"]
    token = await people.mailed_token(address, "You are invited")
    joined = await people.http.post(
        "/v1/auth/invitations/accept", json={"token": token, "password": PASSWORD}
    )
    assert joined.status_code == 200, joined.text
    async with people.auth.runtime.begin() as uow:
        await mail_about_card(uow, expiring(4))
    second = await people.mail(address, "Your card expires")

    assert "March 2031" in first
    assert "April 2031" in second
    assert not any("April 2031" in text for text in people.mails(email))


async def test_the_backend_invites_a_person_into_the_account(
    people: People, backend: Headers
) -> None:
    account, email = await made(people, backend), people.address()
    url = f"/v1/accounts/{account['id']}"

    invited = await people.http.post(
        f"{url}/invitations", json={"email": email, "role": "owner"}, headers=backend
    )
    token = await people.mailed_token(email, "You are invited")
    await people.http.post(
        "/v1/auth/invitations/accept", json={"token": token, "password": PASSWORD}
    )
    person = Person(email, UUID(int=0), None)
    await people.log_in(person)
    members = await people.http.get(f"{url}/members", headers=backend)
    refused = await people.http.post(
        f"{url}/invitations", json={"email": email, "role": "owner"}, headers=backend
    )

    assert invited.status_code == 201, invited.text
    assert str(person.account_id) == account["id"]
    assert [one["role"] for one in members.json()["data"]] == ["owner"]
    assert (refused.status_code, refused.json()["code"]) == (409, "already-member")


async def test_a_closed_account_keeps_its_external_id_and_nothing_personal(
    people: People, backend: Headers
) -> None:
    external_id = unique()
    account = await made(
        people, backend, external_id=external_id, email=people.address(), metadata={"k": "v"}
    )
    url = f"/v1/accounts/{account['id']}"

    closed = await people.http.delete(url, headers=backend)
    (found,) = (
        await people.http.get("/v1/accounts", params={"external_id": external_id}, headers=backend)
    ).json()["data"]

    assert closed.status_code == 204
    assert (found["status"], found["name"], found["email"]) == ("closed", None, None)
    assert found["metadata"] == {}


async def test_an_unknown_account_is_not_found(people: People, backend: Headers) -> None:
    answer = await people.http.get(f"/v1/accounts/{uuid4()}", headers=backend)

    assert (answer.status_code, answer.json()["code"]) == (404, "account-not-found")
