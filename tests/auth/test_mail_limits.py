"""What a user can have us send to strangers is little, and holds few of the user's words."""

import asyncio
from datetime import timedelta

import asyncpg
import pytest

from services.auth.domain.mail import LONGEST_NAME, plain_name
from services.auth.main import service
from shared.clock import utc_now
from shared.context import current_cause
from shared.events.invoicing import InvoicePaid
from shared.ids import new_id
from shared.messaging.envelope import outbox_row
from shared.money import Money
from tests.auth.people import PASSWORD, People, Person, from_address
from tests.eventlog import EventLog
from tests.harness import Deployment, running


async def invited(people: People, owner: Person, email: str) -> int:
    answer = await people.http.post(
        f"/v1/accounts/{owner.account_id}/invitations",
        json={"email": email},
        headers=owner.headers,
    )
    if answer.status_code == 429:
        assert answer.json()["code"] == "too-many-mails"
        assert int(answer.headers["retry-after"]) > 3000
    return answer.status_code


async def aged(deployment: Deployment, owner: Person, *, days: int) -> None:
    """Auth's own records say that the account was made so long ago: nothing else can."""
    connection = await asyncpg.connect(deployment.database_urls["auth"])
    await connection.execute(
        "UPDATE auth.accounts SET created_at = $2 WHERE id = $1",
        owner.account_id,
        utc_now() - timedelta(days=days),
    )
    await connection.close()


async def test_a_new_account_invites_few_and_one_that_has_paid_more(
    people: People, events: EventLog, deployment: Deployment
) -> None:
    owner = await people.logged_in()
    assert owner.account_id

    of_new = [await invited(people, owner, people.address()) for _ in range(6)]
    await aged(deployment, owner, days=2)
    of_older = [await invited(people, owner, people.address()) for _ in range(16)]
    paid = InvoicePaid(
        occurred_at=utc_now(),
        account_id=owner.account_id,
        sequence=2,
        invoice_id=new_id(),
        number="INV-1",
        total=Money(100, "EUR"),
        amount_paid=Money(100, "EUR"),
        billing_reason="subscription_cycle",
    )
    await events.publish(outbox_row(paid, current_cause())["body"])
    await people.mail(owner.email, "Receipt for invoice INV-1")
    of_paying = await invited(people, owner, people.address())

    assert of_new == [201] * 5 + [429]
    assert of_older == [201] * 15 + [429]
    assert of_paying == 201


async def test_staff_invite_for_a_new_account_as_for_one_that_has_paid(people: People) -> None:
    owner, admin = await people.logged_in(), await people.staff()
    admin.account_id = owner.account_id

    assert [await invited(people, admin, people.address()) for _ in range(7)] == [201] * 7


async def test_an_invoice_over_nothing_is_no_payment(people: People, events: EventLog) -> None:
    owner = await people.logged_in()
    assert owner.account_id
    for number, amount in (("INV-0", 0), ("INV-1", 0)):
        free = InvoicePaid(
            occurred_at=utc_now(),
            account_id=owner.account_id,
            sequence=2,
            invoice_id=new_id(),
            number=number,
            total=Money(amount, "EUR"),
            amount_paid=Money(amount, "EUR"),
            billing_reason="subscription_cycle",
        )
        await events.publish(outbox_row(free, current_cause())["body"])

    of_new = [await invited(people, owner, people.address()) for _ in range(6)]

    assert of_new == [201] * 5 + [429]


async def test_who_opens_many_accounts_invites_no_more_with_them(people: People) -> None:
    owner = await people.logged_in()
    done = []
    for number in range(5):
        made = await people.http.post(
            "/v1/accounts", json={"name": f"Front {number}"}, headers=owner.headers
        )
        assert made.status_code == 201, made.text
        await people.log_in(owner, account_id=made.json()["id"])
        done += [await invited(people, owner, people.address()) for _ in range(5)]

    assert done == [201] * 20 + [429] * 5


async def test_one_address_is_invited_three_times_an_hour_whoever_invites(people: People) -> None:
    email = people.address()
    owners = [await people.logged_in() for _ in range(4)]

    done = [await invited(people, owner, email) for owner in owners]

    assert done == [201, 201, 201, 429]


async def test_a_user_tries_five_new_addresses_a_day(people: People) -> None:
    person = await people.logged_in()
    answers = [
        await people.http.post(
            "/v1/me/email", json={"email": people.address()}, headers=person.headers
        )
        for _ in range(6)
    ]

    assert [answer.status_code for answer in answers] == [202] * 5 + [429]
    assert answers[-1].json()["code"] == "too-many-mails"


@pytest.mark.parametrize(
    ("url", "more"),
    [
        ("/v1/auth/register", {"password": PASSWORD}),
        ("/v1/auth/verify-email/resend", {}),
        ("/v1/auth/password/forgot", {}),
    ],
)
async def test_of_many_at_once_an_address_is_sent_three_mails_of_a_kind_an_hour(
    people: People, url: str, more: dict[str, str]
) -> None:
    email = people.address()

    answers = await asyncio.gather(
        *(people.http.post(url, json={"email": email, **more}) for _ in range(12))
    )

    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == len(answers) - 3
    assert {answer.json()["code"] for answer in refused} == {"too-many-mails"}


async def test_what_a_stranger_asks_for_does_not_use_up_the_mail_that_lets_an_owner_in(
    people: People,
) -> None:
    person = await people.verified()
    for _ in range(4):
        await people.http.post(
            "/v1/auth/register", json={"email": person.email, "password": PASSWORD}
        )

    forgot = await people.http.post("/v1/auth/password/forgot", json={"email": person.email})

    assert forgot.status_code == 202
    await people.mailed_token(person.email, "Choose a new password")


async def test_one_network_address_asks_for_so_many_mails_an_hour(
    people: People, deployment: Deployment
) -> None:
    async with running(service, deployment, None, worker=False, mails_from_one_network=4) as strict:
        app = service.create_api(strict.runtime)
        done = []
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"):
            async with from_address(app, address) as http:
                for _ in range(3):
                    answer = await http.post(
                        "/v1/auth/password/forgot", json={"email": people.address()}
                    )
                    done.append(answer.status_code)

    assert done == [202, 202, 202, 202, 429, 429, 202, 202, 202]


async def test_a_mail_to_a_stranger_holds_no_links_of_who_caused_it(people: People) -> None:
    lure = "You won\u2028 https://evil.example/x (www.evil.example) win@evil.example evil.example/y"
    owner = await people.logged_in(account_name=lure, full_name=lure)
    email = people.address()
    assert await invited(people, owner, email) == 201
    await people.http.post(
        "/v1/auth/register",
        json={"email": email, "password": PASSWORD, "full_name": lure, "account_name": lure},
    )

    invitation = await people.mail(email, "You are invited")
    confirmation = await people.mail(email, "Confirm your address")

    assert "evil" not in invitation + confirmation
    assert "“You won" in invitation
    assert "won" not in confirmation


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Müller & Söhne GmbH", "Müller & Söhne GmbH"),
        ("Acme Inc.", "Acme Inc."),
        ("J. R. R. Tolkien", "J. R. R. Tolkien"),
        ("株式会社", "株式会社"),
        ("  spaced\u00a0\tout ", "spaced out"),
        ("\u202egnp.exe\u202c x", "x"),
        ("see evil\uff0eexample now", "see now"),
        ("http://evil", None),
        ("\u200b", None),
        ("", None),
        (None, None),
    ],
)
def test_of_a_name_the_plain_words_are_left(name: str | None, said: str | None) -> None:
    assert plain_name(name) == said


def test_a_name_in_a_mail_is_short() -> None:
    assert plain_name("x" * 200) == "x" * LONGEST_NAME
