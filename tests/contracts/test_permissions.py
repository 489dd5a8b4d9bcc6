"""Every operation of every service is asked as every kind of caller, as the page says."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shared.security import OPERATOR_SCOPES, KeyScope
from tests.conftest import SERVICES
from tests.furnished import ROLES, House, furnished
from tests.harness import Deployment
from tests.tokens import TokenIssuer

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


def callers(house: House, entry: Entry) -> Iterator[Caller]:
    """Each kind, with what the page says of it."""
    yield Caller("nobody", {}, entry.nobody)
    for role, may in entry.roles.items():
        yield Caller(role, house.person(role), may)
    for role, may in entry.staff.items():
        yield Caller(f"staff {role}", house.issuer.of_staff(role) | house.for_mine, may)
    yield Caller("customer session", house.session(), entry.session)
    yield from keys(house, entry.account_key, set(KeyScope) - OPERATOR_SCOPES, operator=False)
    yield from keys(house, entry.operator_key, set(KeyScope), operator=True)


def keys(house: House, cell: str, scopes: set[KeyScope], *, operator: bool) -> Iterator[Caller]:
    whose = "operator's key" if operator else "account's key"
    good = set(re.findall(r"`([^`]+)`", cell))
    for scope in good:
        yield Caller(f"{whose} {scope}", house.key(scope, operator=operator), may=True)
    others = house.key(*sorted({*scopes} - good), operator=operator)
    yield Caller(f"{whose} with all other scopes", others, may=cell == "any")
    if cell == "any":
        yield Caller(f"{whose} without scopes", house.key(operator=operator), may=True)


async def knock(house: House, operation: str, headers: dict[str, str], *, real: bool) -> int:
    """The status that this caller gets, with nothing changed by it."""
    if operation.startswith("GET ") and real:
        return (await house.ask(operation, headers)).status_code
    if operation.partition(" ")[2].startswith("/v1/accounts/{") and real:
        # The role as it is by now is asked for inside: so far, and no further.
        stale = headers | {"If-Match": '"0"'}
        return (await house.ask(operation, stale, json=_body(operation))).status_code
    return (await house.ask(operation, headers, params=POISON)).status_code


def _body(operation: str) -> dict[str, Any] | None:
    return None if operation.startswith(("GET", "DELETE")) else {}


@pytest.fixture(scope="module", params=SERVICES)
async def house(
    request: pytest.FixtureRequest,
    deployment: Deployment,
    issuer: TokenIssuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("files")
    async with furnished(request.param, deployment, issuer, folder) as made:
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
        asking = list(callers(house, entry))
        statuses = await asyncio.gather(
            *(
                # What is looked up about people inside may refuse them yet; nothing else is.
                knock(house, operation, one.headers, real=one.name in ROLES and not entry.nobody)
                for one in asking
            )
        )
        for caller, status in zip(asking, statuses, strict=True):
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
            status = await knock(house, operation, who, real=False)
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
