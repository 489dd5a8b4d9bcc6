"""Every operation of every service is asked as every kind of caller, as the page says."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from services.auth.domain.customer_sessions import CUSTOMER_SCOPES
from services.auth.domain.roles import Role
from services.auth.domain.users import User
from services.auth.use_cases.claim_address import add_user
from services.auth.use_cases.register_user import a_place
from services.invoicing.use_cases.take_in_account import take_in_account
from services.payments.consumers import collect_invoice
from services.payments.providers.base import Method
from services.payments.use_cases.keep_payment_methods import attach_payment_method
from services.subscriptions.use_cases.know_account import know_account
from shared.clock import utc_now
from shared.events.auth import AccountRegistered
from shared.ids import new_id
from shared.security import OPERATOR_SCOPES, KeyScope
from shared.web.key_rules import operations_of
from tests.conftest import SERVICES, service_named
from tests.harness import Deployment, Running, running
from tests.payments.factories import an_invoice_finalized
from tests.tokens import TokenIssuer, bearer

ROLES = ("member", "billing", "admin", "owner")
STAFF = ("support", "finance", "admin")
#: What the edge answers to who may not; and 404 to another account, which is told no more.
REFUSED = {401, 403}
NOT_THEIRS = {401, 403, 404}
#: No operation knows it: what gets so far is let in, and nothing has happened yet.
POISON = {"not-a-parameter": "1"}
#: What is asked of another account's things, where an empty body would be refused first.
BODIES = {
    "PATCH /v1/accounts/{account_id}/members/{user_id}": {"role": "member"},
    "POST /v1/accounts/{account_id}/invitations": {"email": "a@example.com"},
    "POST /v1/accounts/{account_id}/api-keys": {"name": "mine", "scopes": []},
    "PATCH /v1/projects/{project_id}": {"name": "mine"},
    "POST /v1/subscriptions/{subscription_id}/change": {"quantity": 2},
    "POST /v1/subscriptions/{subscription_id}/coupons": {"coupon": "mine"},
}


class Entry(NamedTuple):
    """A row of the page."""

    nobody: bool
    roles: dict[str, bool]
    staff: dict[str, bool]
    account_key: str
    operator_key: str
    session: bool


def entries() -> dict[str, Entry]:
    """The page, by operation."""
    found: dict[str, Entry] = {}
    for line in Path("docs/permissions.md").read_text().splitlines():
        row = re.match(r"\| `([A-Z]+ /\S+)`[ ()\d]* \| (.*) \|$", line)
        if row is None:
            continue
        nobody, *people = [cell == "yes" for cell in row[2].split(" | ")[:9]]
        *_, account_key, operator_key, session = row[2].split(" | ")
        assert people[4] == nobody, line  # another account may what anybody may
        found[row[1]] = Entry(
            nobody,
            dict(zip(ROLES, people[:4], strict=True)),
            dict(zip(STAFF, people[5:], strict=True)),
            account_key,
            operator_key,
            session == "yes",
        )
    return found


class Caller(NamedTuple):
    name: str
    headers: dict[str, str]
    may: bool


class House:
    """Two accounts, who is in them, and what the first one has, by the name in a path."""

    def __init__(self, name: str, service: Running, issuer: TokenIssuer) -> None:
        self.name = name
        self.service = service
        self.http = service.http
        self.issuer = issuer
        self.mine, self.other = new_id(), new_id()
        self.people = {(account, role): new_id() for account in (0, 1) for role in ROLES}
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
        return self.issuer.of_staff("admin")

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

    def callers(self, entry: Entry) -> Iterator[Caller]:
        """Each kind, with what the page says of it."""
        yield Caller("nobody", {}, entry.nobody)
        for role, may in entry.roles.items():
            yield Caller(role, self.person(role), may)
        for role, may in entry.staff.items():
            yield Caller(f"staff {role}", self.issuer.of_staff(role) | self.for_mine, may)
        yield Caller("customer session", self.session(), entry.session)
        yield from self.keys(entry.account_key, set(KeyScope) - OPERATOR_SCOPES, operator=False)
        yield from self.keys(entry.operator_key, set(KeyScope), operator=True)

    def keys(self, cell: str, scopes: set[KeyScope], *, operator: bool) -> Iterator[Caller]:
        whose = "operator's key" if operator else "account's key"
        good = set(re.findall(r"`([^`]+)`", cell))
        for scope in good:
            yield Caller(f"{whose} {scope}", self.key(scope, operator=operator), may=True)
        others = self.key(*sorted({*scopes} - good), operator=operator)
        yield Caller(f"{whose} with all other scopes", others, may=cell == "any")
        if cell == "any":
            yield Caller(f"{whose} without scopes", self.key(operator=operator), may=True)

    async def ask(self, operation: str, headers: dict[str, str], **how: Any) -> httpx.Response:
        method, _, path = operation.partition(" ")
        ids = {"account_id": str(self.mine), **how.pop("ids", {})}
        url = re.sub(r"\{(\w+)\}", lambda name: ids.get(name[1], str(new_id())), path)
        headers = {"Idempotency-Key": str(new_id()), **headers}
        return await self.http.request(method, url, headers=headers, **how)

    async def knock(self, operation: str, headers: dict[str, str], *, real: bool) -> int:
        """The status that this caller gets, with nothing changed by it."""
        if operation.startswith("GET ") and real:
            return (await self.ask(operation, headers)).status_code
        if operation.partition(" ")[2].startswith("/v1/accounts/{") and real:
            # The role as it is by now is asked for inside: so far, and no further.
            stale = headers | {"If-Match": '"0"'}
            return (await self.ask(operation, stale, json=_body(operation))).status_code
        return (await self.ask(operation, headers, params=POISON)).status_code


def _body(operation: str) -> dict[str, Any] | None:
    return None if operation.startswith(("GET", "DELETE")) else {}


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
                await add_user(uow, user, email=f"{user.id}@example.com", full_name=None)
                uow.memberships.add(a_place(user.id, UUID(account), Role(role), now=now))
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


@pytest.fixture(scope="module", params=SERVICES)
async def house(
    request: pytest.FixtureRequest,
    deployment: Deployment,
    issuer: TokenIssuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    folder = str(tmp_path_factory.mktemp("files"))
    own: dict[str, dict[str, Any]] = {
        "auth": {"mail_dir": folder},
        "invoicing": {"object_store_url": folder},
    }
    name, service = request.param, service_named(request.param)
    async with running(service, deployment, issuer, worker=False, **own.get(name, {})) as it:
        made = House(name, it, issuer)
        await FURNISH[name](made)
        yield made


def test_the_page_has_every_operation_and_no_other(house: House) -> None:
    whole = Path("docs/permissions.md").read_text()
    section = whole.split(f"\n## {house.name}\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `([A-Z]+ /[^`]+)`", section, re.MULTILINE)

    assert sorted(listed) == sorted(house.operations()), "run `make docs`"
    assert len(set(listed)) == len(listed)


async def test_each_caller_is_let_in_or_refused_as_the_page_says(house: House) -> None:
    page, wrong = entries(), []
    for operation in house.operations():
        entry = page[operation]
        callers = list(house.callers(entry))
        statuses = await asyncio.gather(
            *(
                # What is looked up about people inside may refuse them yet; nothing else is.
                house.knock(operation, one.headers, real=one.name in ROLES and not entry.nobody)
                for one in callers
            )
        )
        for caller, status in zip(callers, statuses, strict=True):
            if (status not in REFUSED) != caller.may or status >= 500:
                said = "may" if caller.may else "may not"
                wrong.append(f"{caller.name} {said} {operation}, and got {status}")

    assert not wrong, "\n".join(wrong)


async def test_nobody_of_another_account_gets_in_by_naming_this_one(house: House) -> None:
    page, wrong = entries(), []
    for operation in house.operations():
        if page[operation].nobody:
            continue
        for role in ROLES:
            who = house.person(role, other=True) | house.for_mine
            status = await house.knock(operation, who, real=False)
            if status not in NOT_THEIRS:
                wrong.append(f"{role} of another account: {operation} answered {status}")

    assert not wrong, "\n".join(wrong)


async def test_what_an_account_has_is_found_by_its_own_people_alone(house: House) -> None:
    page, wrong, seen = entries(), [], set()
    for operation in house.operations():
        named = set(re.findall(r"\{(\w+)\}", operation))
        if page[operation].nobody or not named or not named <= set(house.owned):
            continue
        body = BODIES.get(operation, _body(operation))
        for role in ROLES:
            who = house.person(role, other=True)
            answer = await house.ask(operation, who, ids=house.owned, json=body)
            if answer.status_code not in NOT_THEIRS:
                wrong.append(f"{role} of another account: {operation}: {answer.text[:200]}")
        if operation.startswith("GET ") and not operation.endswith(("/pdf", "/xml")):
            answer = await house.ask(operation, house.person("owner"), ids=house.owned)
            if answer.is_success:
                seen |= named

    assert not wrong, "\n".join(wrong)
    # Else it was only not found because nobody has it.
    assert seen
