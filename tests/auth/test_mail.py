"""Mails about money, and the two ways in which mail leaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest

from services.auth.domain.mail import BACKOFF, Mail, MailStatus, Template
from services.auth.letters import write
from services.auth.mail import FolderMailer, Letter, Mailer, MailRefused, Send, SmtpMailer
from services.auth.use_cases.send_mails import send_mails
from shared.clock import utc_now
from shared.context import current_cause
from shared.events import Event
from shared.events.invoicing import InvoicePaid
from shared.events.payments import PaymentFailed, PaymentMethodExpiring
from shared.events.subscriptions import SubscriptionTrialWillEnd
from shared.ids import new_id
from shared.messaging.envelope import outbox_row
from shared.money import Money
from tests.auth.people import People
from tests.eventlog import EventLog


def a_letter(to: str = "ada@example.com", subject: str = "Hello") -> Letter:
    return Letter(
        id=new_id(),
        to=to,
        subject=subject,
        text="Token: abc\n",
        dated=datetime(2026, 1, 2, tzinfo=UTC),
    )


async def sent(mailer: Mailer, *letters: Letter) -> None:
    async with mailer.connected() as send:
        for letter in letters:
            await send(letter)


def test_every_template_can_be_written() -> None:
    facts = dict.fromkeys(
        (
            "token", "state", "account", "role", "number", "total", "amount", "next_step", "day",
            "plan", "month", "invoice_id", "payment_id", "subscription_id", "payment_method_id",
        ),
        "x",
    )  # fmt: skip
    for template in Template:
        subject, text = write(
            template, facts, greeting="Ada", public_url="https://billing.example/"
        )
        assert "{" not in subject + text
        assert "example//" not in text


def test_a_line_break_in_a_name_makes_no_header() -> None:
    subject, _ = write(
        Template.SUBSCRIPTION_CANCELED,
        {"plan": "Pro\nBcc: evil@example.com", "day": "1 May", "subscription_id": "x"},
        greeting=None,
        public_url="http://x",
    )
    assert "\n" not in subject


async def test_mails_become_files_that_sort_by_time(tmp_path: Path) -> None:
    mailer = FolderMailer(tmp_path, sender="us@example.com")
    letters = [a_letter(subject=f"Number {n}") for n in range(3)]
    for letter in letters:
        await sent(mailer, letter)

    written = [path.read_text() for path in sorted((tmp_path / "ada@example.com").iterdir())]

    assert [f"Subject: Number {n}" in text for n, text in enumerate(written)] == [True] * 3
    assert written[0].endswith("\n\nToken: abc\n")


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_an_address_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    mailer = FolderMailer(tmp_path / "box", sender="us@example.com")
    await sent(mailer, a_letter("a/../../../up@example.com"))
    assert _names(tmp_path) == ["box"]
    assert _names(tmp_path / "box") == ["a%2F..%2F..%2F..%2Fup@example.com"]


def a_mail(now: datetime) -> Mail:
    return Mail.to_user(new_id(), Template.VERIFY_EMAIL, dated=now, at=now, token="t")


def test_a_mail_that_does_not_go_out_is_tried_again_with_growing_waits_and_then_given_up() -> None:
    now = utc_now()
    mail = a_mail(now)
    for wait in BACKOFF:
        mail.claim(at=now)
        mail.failed("no answer", final=False, at=now)
        assert (mail.status, mail.next_attempt_at) == (MailStatus.WAITING, now + wait)
    mail.claim(at=now)
    mail.failed("no answer", final=False, at=now)
    assert (mail.status, mail.facts) == (MailStatus.FAILED, {})


def test_a_refusal_for_good_is_not_tried_again() -> None:
    mail = a_mail(utc_now())
    mail.claim(at=utc_now())
    mail.failed("answer 550", final=True, at=utc_now())
    assert mail.status is MailStatus.FAILED


@dataclass
class SmtpServer:
    """Speaks just enough SMTP (RFC 5321) to take or refuse a mail."""

    port: int = 0
    refuse: dict[str, int] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        await say("220 test")
        while line := (await reader.readline()).decode().strip():
            verb = line.upper()
            if verb.startswith("RCPT"):
                address = line.split("<")[1].split(">")[0]
                await say(f"{self.refuse.get(address, 250)} so be it")
            elif verb == "DATA":
                await say("354 go on")
                self.taken.append((await reader.readuntil(b"\r\n.\r\n")).decode())
                await say("250 ok")
            elif verb == "QUIT":
                await say("221 bye")
                break
            else:
                await say("250 ok")
        writer.close()


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    server = SmtpServer(refuse={"gone@example.com": 550, "busy@example.com": 451})
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


async def test_mail_goes_to_a_mail_server(smtp: SmtpServer) -> None:
    mailer = SmtpMailer(f"smtp://127.0.0.1:{smtp.port}", sender="Us <us@example.com>")
    letters = [a_letter(), a_letter()]

    await sent(mailer, *letters)

    assert len(smtp.taken) == 2
    assert f"Message-ID: <{letters[0].id}@example.com>" in smtp.taken[0]
    assert "Subject: Hello" in smtp.taken[0]


@pytest.mark.parametrize(("to", "final"), [("gone@example.com", True), ("busy@example.com", False)])
async def test_a_final_refusal_is_told_from_a_passing_one(
    smtp: SmtpServer, to: str, final: bool
) -> None:
    mailer = SmtpMailer(f"smtp://127.0.0.1:{smtp.port}", sender="us@example.com")
    with pytest.raises(MailRefused) as refused:
        await sent(mailer, a_letter(to))
    assert refused.value.final is final


async def test_a_mail_server_that_is_away_is_no_final_refusal() -> None:
    with pytest.raises(MailRefused) as refused:
        await sent(SmtpMailer("smtp://127.0.0.1:1", sender="us@example.com"), a_letter())
    assert not refused.value.final


def an_invoice_paid(account_id: UUID, invoice_id: UUID, amount: int = 1999) -> InvoicePaid:
    return InvoicePaid(
        occurred_at=utc_now(),
        account_id=account_id,
        sequence=2,
        invoice_id=invoice_id,
        number="INV-2026-000001",
        total=Money(amount, "EUR"),
        amount_paid=Money(amount, "EUR"),
        billing_reason="subscription_cycle",
    )


def a_payment_failed(account_id: UUID, invoice_id: UUID, decline_class: str) -> PaymentFailed:
    return PaymentFailed.model_validate(
        {
            "occurred_at": utc_now(),
            "account_id": account_id,
            "sequence": 2,
            "payment_id": new_id(),
            "invoice_id": invoice_id,
            "amount": {"amount": 1999, "currency": "EUR"},
            "decline_class": decline_class,
            "decline_code": "declined",
            "attempts": 1,
            "retries_at": utc_now() + timedelta(days=1),
        }
    )


async def published(events: EventLog, event: Event) -> None:
    await events.publish(outbox_row(event, current_cause())["body"])


@pytest.mark.servers
async def test_a_paid_invoice_is_receipted_once_to_those_who_deal_with_bills(
    people: People, events: EventLog
) -> None:
    owner = await people.logged_in()
    billing, member = await people.joined(owner, "billing"), await people.joined(owner, "member")
    assert owner.account_id
    paid = an_invoice_paid(owner.account_id, new_id())

    await published(events, paid)
    await published(events, paid)  # a broker delivers at least once

    text = await people.mail(billing.email, "Receipt for invoice INV-2026-000001")
    await people.mail(owner.email, "Receipt")
    assert "19.99 EUR" in text
    # A later event is through when its mail is there; the repeat came before it.
    await published(
        events, an_invoice_paid(owner.account_id, new_id()).model_copy(update={"number": "INV-2"})
    )
    await people.mail(owner.email, "Receipt for invoice INV-2")
    assert len([m for m in people.mails(owner.email) if "INV-2026-000001" in m]) == 1
    assert not [m for m in people.mails(member.email) if "Receipt" in m]


@pytest.mark.servers
async def test_a_failed_payment_is_mailed_by_what_can_be_done_about_it(
    people: People, events: EventLog
) -> None:
    owner = await people.logged_in()
    assert owner.account_id

    await published(events, a_payment_failed(owner.account_id, new_id(), "retry_later"))
    await published(events, a_payment_failed(owner.account_id, new_id(), "new_card"))

    assert "We try again on" in await people.mail(owner.email, "A payment over 19.99 EUR")
    await people.mail(owner.email, "Please add another card")


@pytest.mark.servers
async def test_a_card_that_expires_is_mailed_about_before_it_does(
    people: People, events: EventLog
) -> None:
    owner = await people.logged_in()
    assert owner.account_id
    method = new_id()
    await published(
        events,
        PaymentMethodExpiring(
            occurred_at=utc_now(),
            account_id=owner.account_id,
            sequence=2,
            payment_method_id=method,
            exp_month=3,
            exp_year=2027,
        ),
    )

    text = await people.mail(owner.email, "Your card expires at the end of March 2027")
    assert f"v1/payment-methods/{method}" in text


@pytest.mark.servers
async def test_nobody_is_asked_for_money_that_has_come(people: People, events: EventLog) -> None:
    owner = await people.logged_in()
    assert owner.account_id
    invoice_id = new_id()
    await published(events, an_invoice_paid(owner.account_id, invoice_id))
    await people.mail(owner.email, "Receipt")

    await published(events, a_payment_failed(owner.account_id, invoice_id, "retry_later"))
    await published(events, a_payment_failed(owner.account_id, new_id(), "new_card"))

    await people.mail(owner.email, "Please add another card")
    assert not [m for m in people.mails(owner.email) if "A payment over" in m]


class Broken:
    """A mail server that is away."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Send]:
        raise MailRefused("nobody there", final=False)
        yield


@pytest.mark.servers
async def test_while_the_mail_server_is_away_mail_waits(people: People) -> None:
    person = await people.verified()
    later = utc_now() + timedelta(days=1)
    mail = Mail.to_user(person.user_id, Template.PASSWORD_CHANGED, dated=later, at=later)
    async with people.auth.runtime.begin() as uow:
        uow.mail(mail)

    taken = await send_mails(people.auth.runtime.begin, Broken(), public_url="http://x", now=later)

    assert taken == 1
    async with people.auth.runtime.begin() as uow:
        kept = await uow.mails.get(mail.id)
        assert kept is not None
        assert (kept.status, kept.attempts) == (MailStatus.WAITING, 1)
        assert kept.last_error == "nobody there"


@pytest.mark.servers
async def test_the_day_in_a_mail_is_that_of_the_account(people: People, events: EventLog) -> None:
    owner = await people.logged_in(time_zone="Asia/Tokyo")
    assert owner.account_id
    trial = SubscriptionTrialWillEnd(
        occurred_at=utc_now(),
        account_id=owner.account_id,
        sequence=3,
        subscription_id=new_id(),
        trial_end=datetime(2026, 5, 31, 20, tzinfo=UTC),
    )

    await published(events, trial)

    await people.mail(owner.email, "Your trial ends on 1 June 2026")
