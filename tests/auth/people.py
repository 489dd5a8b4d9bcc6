"""Users as tests meet them: signed up, verified and logged in through HTTP."""

import asyncio
import base64
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from services.auth.domain.roles import StaffRole
from services.auth.passwords import Passwords
from services.auth.use_cases.create_staff import create_staff
from shared.clock import utc_now
from tests.declared import DeclaredTransport
from tests.harness import Running

PASSWORD = "rusty anchor violin cloud"


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return decoded


def an_address() -> str:
    """Some network address (of the block that nobody has, RFC 2544)."""
    return f"198.{secrets.choice((18, 19))}.{secrets.randbelow(256)}.{secrets.randbelow(256)}"


def from_address(app: FastAPI, address: str) -> httpx.AsyncClient:
    """A client of the application that comes from this network address."""
    transport = DeclaredTransport(app, client=(address, 1234))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@dataclass
class Person:
    email: str
    user_id: UUID
    account_id: UUID | None
    access_token: str = ""
    refresh_token: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}


class People:
    """Makes people, and reads their mail."""

    def __init__(
        self, auth: Running, mail_dir: Path, http: httpx.AsyncClient, app: FastAPI, ip: str
    ) -> None:
        self.auth = auth
        self.http = http
        self.mail_dir = mail_dir
        self.app = app
        #: Where `http` comes from.
        self.ip = ip

    def elsewhere(self, address: str | None = None) -> httpx.AsyncClient:
        """A client at another network address."""
        return from_address(self.app, address or an_address())

    def address(self) -> str:
        return f"p{secrets.token_hex(6)}@example.com"

    async def registered(self, email: str | None = None, **more: Any) -> Person:
        email = email or self.address()
        answer = await self.http.post(
            "/v1/auth/register", json={"email": email, "password": PASSWORD, **more}
        )
        assert answer.status_code == 201, answer.text
        made = answer.json()
        return Person(email, UUID(made["user"]["id"]), UUID(made["account"]["id"]))

    async def verified(self, email: str | None = None, **more: Any) -> Person:
        person = await self.registered(email, **more)
        token = await self.mailed_token(person.email, "Confirm your address")
        answer = await self.http.post(
            "/v1/auth/verify-email", json={"token": token, "password": PASSWORD}
        )
        assert answer.status_code == 200, answer.text
        return person

    async def logged_in(self, email: str | None = None, **more: Any) -> Person:
        person = await self.verified(email, **more)
        await self.log_in(person)
        return person

    async def log_in(self, person: Person, **more: Any) -> httpx.Response:
        answer = await self.http.post(
            "/v1/auth/login", json={"email": person.email, "password": PASSWORD, **more}
        )
        if answer.status_code == 200:
            person.access_token = answer.json()["access_token"]
            person.refresh_token = answer.json()["refresh_token"]
            account_id = claims(person.access_token)["account_id"]
            person.account_id = UUID(account_id) if account_id else None
        return answer

    async def staff(self, role: StaffRole = StaffRole.ADMIN) -> Person:
        email = self.address()
        passwords = Passwords(workers=1)
        password_hash = await passwords.hash(PASSWORD)
        passwords.close()
        async with self.auth.runtime.begin() as uow:
            user, _ = await create_staff(
                uow, email=email, password_hash=password_hash, role=role, now=utc_now()
            )
        person = Person(email, user.id, None)
        assert (await self.log_in(person)).status_code == 200
        return person

    async def joined(self, owner: Person, role: str) -> Person:
        """Somebody whom `owner` invited and who accepted."""
        email = self.address()
        answer = await self.http.post(
            f"/v1/accounts/{owner.account_id}/invitations",
            json={"email": email, "role": role},
            headers=owner.headers,
        )
        assert answer.status_code == 201, answer.text
        token = await self.mailed_token(email, "You are invited")
        answer = await self.http.post(
            "/v1/auth/invitations/accept", json={"token": token, "password": PASSWORD}
        )
        assert answer.status_code == 200, answer.text
        person = Person(email, UUID(answer.json()["user_id"]), owner.account_id)
        assert (await self.log_in(person)).status_code == 200
        return person

    def mails(self, email: str) -> list[str]:
        """Oldest first."""
        box = self.mail_dir / email
        return [path.read_text() for path in sorted(box.glob("*.txt"))] if box.exists() else []

    async def mail(
        self, email: str, subject: str, *, without: str | None = None, within: float = 10
    ) -> str:
        """The newest mail of this subject (that does not hold `without`), once it is there."""
        async with asyncio.timeout(within):
            while True:
                for text in reversed(self.mails(email)):
                    if f"Subject: {subject}" in text and (without is None or without not in text):
                        return text
                await asyncio.sleep(0.02)

    async def mailed_token(self, email: str, subject: str, *, other_than: str | None = None) -> str:
        text = await self.mail(email, subject, without=other_than)
        found = re.search(r"^Token: (\S+)$", text, re.MULTILINE)
        assert found
        return found.group(1)
