"""Accounts with people in them and things that they have, for tests that try every operation."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI

from services.auth.domain.customer_sessions import CUSTOMER_SCOPES
from services.auth.domain.roles import Role, StaffRole
from services.auth.domain.users import User
from services.auth.use_cases.claim_address import add_user
from services.auth.use_cases.create_staff import create_staff
from services.auth.use_cases.register_user import a_place
from services.invoicing.use_cases.take_in_account import take_in_account
from services.payments.consumers import collect_invoice
from services.payments.providers.base import Method
from services.payments.use_cases.keep_payment_methods import attach_payment_method
from services.subscriptions.use_cases.know_account import know_account
from shared.clock import utc_now
from shared.events.auth import AccountRegistered
from shared.ids import new_id
from shared.security import KeyScope
from shared.web.key_rules import operations_of
from tests.conftest import service_named
from tests.harness import Deployment, Running, running
from tests.payments.factories import an_invoice_finalized
from tests.tokens import TokenIssuer, bearer

ROLES = ("member", "billing", "admin", "owner")


class House:
    """Two accounts, who is in them, and what the first one has, by the name in a path."""

    def __init__(self, name: str, service: Running, issuer: TokenIssuer) -> None:
        self.name = name
        self.service = service
        self.http = service.http
        self.issuer = issuer
        self.mine, self.other = new_id(), new_id()
        self.people = {(account, role): new_id() for account in (0, 1) for role in ROLES}
        self.staff_id = new_id()
        self.owned: dict[str, str] = {}

    @property
    def app(self) -> FastAPI:
        app: FastAPI = self.http._transport.app  # type: ignore[attr-defined]
        return app

    def operations(self) -> Iterator[str]:
        return (operation for operation, _ in operations_of(self.app))

    def person(self, role: str, *, other: bool = False) -> dict[str, str]:
        account = self.other if other else self.mine
        return self.issuer.of_account(account, role, sub=str(self.people[int(other), role]))

    @property
    def staff(self) -> dict[str, str]:
        return self.issuer.of_staff("admin", sub=str(self.staff_id))

    @property
    def for_mine(self) -> dict[str, str]:
        """For whoever may act for every account."""
        return {"Perennial-Account": str(self.mine)}

    def key(self, *scopes: str, operator: bool) -> dict[str, str]:
        whose: dict[str, Any] = {"operator": True}
        if not operator:
            whose = {"account_id": str(self.mine), "role": "owner"}
        header = bearer(self.issuer.token(scope=" ".join(scopes), **whose))
        return header | self.for_mine if operator else header

    def session(self) -> dict[str, str]:
        claims = {"account_id": str(self.mine), "role": "owner", "opened_by": str(new_id())}
        return bearer(self.issuer.token(scope=" ".join(CUSTOMER_SCOPES), **claims))

    async def ask(self, operation: str, headers: dict[str, str], **how: Any) -> httpx.Response:
        method, _, path = operation.partition(" ")
        ids = {"account_id": str(self.mine), **how.pop("ids", {})}
        url = re.sub(r"\{(\w+)\}", lambda name: ids.get(name[1], str(new_id())), path)
        headers = {"Idempotency-Key": str(new_id()), **headers}
        return await self.http.request(method, url, headers=headers, **how)


Furnish = Callable[[House], Awaitable[None]]


def _registered(account_id: UUID) -> AccountRegistered:
    return AccountRegistered(
        occurred_at=utc_now(), account_id=account_id, sequence=1, country="DE", time_zone="UTC"
    )


async def made(house: House, path: str, headers: dict[str, str], **body: Any) -> str:
    headers = {"Idempotency-Key": str(new_id()), **headers}
    answer = await house.http.post(path, json=body, headers=headers)
    assert answer.is_success, answer.text
    return str((answer.json() if answer.content else {}).get("id"))


async def furnish_auth(house: House) -> None:
    for number in (0, 1):
        account = await made(house, "/v1/accounts", operator_of(house), name="Someone")
        setattr(house, ("mine", "other")[number], UUID(account))
        async with house.service.runtime.begin() as uow:
            for role in ROLES:
                now = utc_now()
                user, _ = User.register(
                    home_account_id=UUID(account),
                    password_hash="none",
                    at=now,
                    user_id=house.people[number, role],
                )
                user.verify(at=now)
                user.password_hash = None  # nobody logs in here; tokens are signed instead
                await add_user(uow, user, email=f"{user.id}@example.com", full_name=None)
                uow.memberships.add(a_place(user.id, UUID(account), Role(role), now=now))
    async with house.service.runtime.begin() as uow:
        user, _ = await create_staff(
            uow,
            email=f"{new_id()}@example.com",
            password_hash="none",
            role=StaffRole.ADMIN,
            now=utc_now(),
        )
        user.password_hash = None
        house.staff_id = user.id
    base, owner = f"/v1/accounts/{house.mine}", house.person("owner")
    house.owned = {
        "account_id": str(house.mine),
        "user_id": str(house.people[0, "member"]),
        "project_id": await made(house, "/v1/projects", owner, name="Mine"),
        "key_id": await made(house, f"{base}/api-keys", owner, name="Mine", scopes=[]),
        "invitation_id": await made(
            house, f"{base}/invitations", operator_of(house), email=f"{new_id()}@example.com"
        ),
    }


async def furnish_subscriptions(house: House) -> None:
    async with house.service.runtime.begin() as uow:
        for account in (house.mine, house.other):
            await know_account(uow, _registered(account))
    code, staff, owner = str(new_id()), house.staff, house.person("owner")
    plan = await made(house, "/v1/plans", staff, code=f"p-{code}", name="P")
    price = {"currency": "EUR", "type": "flat", "interval": "month", "unit_amount": 1000}
    price_id = await made(house, "/v1/prices", staff, plan_id=plan, **price)
    await made(house, f"/v1/plans/{plan}/publish", staff)
    bundle = {"code": f"b-{code}", "name": "B", "tokens": 5, "amount": 100, "currency": "EUR"}
    bundle_id = await made(house, "/v1/bundles", staff, **bundle)
    house.owned = {
        "subscription_id": await made(house, "/v1/subscriptions", owner, price_id=price_id),
        "order_id": await made(house, "/v1/token-balance/purchase", owner, bundle_id=bundle_id),
    }


async def furnish_invoicing(house: House) -> None:
    async with house.service.runtime.begin() as uow:
        for account in (house.mine, house.other):
            await take_in_account(uow, _registered(account))
    line = {"description": "Work", "quantity": "1", "unit_amount": "1000"}
    invoice = {"currency": "EUR", "account_id": str(house.mine), "lines": [line]}
    file = {"filename": "a.txt", "content_type": "text/plain", "size": 1, "sha256": "0" * 64}
    invoice_id = await made(house, "/v1/invoices", house.staff, **invoice)
    note = {"invoice_id": invoice_id, "reason": "Sorry", "settle": "credit"}
    house.owned = {
        "invoice_id": invoice_id,
        "note_id": await made(house, "/v1/credit-notes", house.staff, **note),
        "attachment_id": await made(house, "/v1/attachments", house.person("owner"), **file),
    }


async def furnish_payments(house: House) -> None:
    event = an_invoice_finalized(account_id=house.mine, occurred_at=utc_now())
    async with house.service.runtime.begin() as uow:
        method = await attach_payment_method(
            uow,
            account_id=house.mine,
            provider="sandbox",
            method=Method(reference=f"pm_{house.mine}"),
            make_default=False,
            now=utc_now(),
        )
    async with house.service.runtime.begin() as uow:
        await collect_invoice(uow, event)
    listed = await house.http.get("/v1/payments", headers=house.person("owner"))
    house.owned = {
        "method_id": str(method.id),
        "invoice_id": str(event.invoice_id),
        "payment_id": listed.json()["data"][0]["id"],
    }


def operator_of(house: House) -> dict[str, str]:
    return bearer(house.issuer.token(operator=True, scope=" ".join(KeyScope)))


FURNISH: dict[str, Furnish] = {
    "auth": furnish_auth,
    "subscriptions": furnish_subscriptions,
    "invoicing": furnish_invoicing,
    "payments": furnish_payments,
}


@asynccontextmanager
async def furnished(
    name: str,
    deployment: Deployment,
    issuer: TokenIssuer,
    folder: Path,
    *,
    like: House | None = None,
    **settings: Any,
) -> AsyncIterator[House]:
    """The service's API, without a worker, and two accounts at it: those of `like`, if given."""
    own: dict[str, dict[str, Any]] = {
        "auth": {"mail_dir": folder},
        "invoicing": {"object_store_url": str(folder)},
    }
    settings |= own.get(name, {})
    async with running(service_named(name), deployment, issuer, worker=False, **settings) as it:
        house = House(name, it, issuer)
        if like is not None:
            house.mine, house.other, house.people = like.mine, like.other, like.people
        await FURNISH[name](house)
        yield house
