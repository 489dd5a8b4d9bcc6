"""`docs/permissions.md`: who may call what, by asking each operation's rules about callers."""

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant

from services.auth.domain.customer_sessions import CUSTOMER_SCOPES
from shared.errors import Forbidden
from shared.security import OPERATOR_SCOPES, Caller, KeyScope
from shared.web.edge import caller
from shared.web.key_rules import KeyRule, operations_of, rule_of
from shared.web.rights import Right
from shared.web.routing import all_dependants

ROLES = ("member", "billing", "admin", "owner")
STAFF = ("support", "finance", "admin")
#: What a key may be made with, by whose it is.
OF_ACCOUNTS = tuple(scope for scope in KeyScope if scope not in OPERATOR_SCOPES)
OF_THE_OPERATOR = tuple(KeyScope)

CUSTOMER = frozenset(CUSTOMER_SCOPES)

ACCOUNT = UUID(int=1)
YES, NO, ANY = "yes", "-", "any"
COLUMNS = (
    "operation",
    "nobody",
    *ROLES,
    "other account",
    *(f"staff {role}" for role in STAFF),
    "account's key",
    "operator's key",
    "customer session",
)

INTRODUCTION = """\
# Permissions

Who may call which operation. Somebody who may not gets 403, before anything of the request is
looked at, and 401 without a token. What nobody needs a token for may ask for another proof: a
password, a mailed token, a key that is traded, a signature. Health and metrics are not here.

| column | who |
|---|---|
| nobody | without a token |
| member, billing, admin, owner | a person with this role in the account that it is about |
| other account | anybody of another account, in whichever role, who names this account in the \
header, a filter or the path (403, 404), or something it has by its id (404). Of one's own account \
the columns to the left hold |
| staff support, finance, admin | the operator's people, for every account |
| account's key | the scopes of which it needs one, if its role may as well |
| operator's key | the scopes of which it needs one, for every account |
| customer session | in the role that it was opened with, which has to be one that may |

**Support may look and not pay.** What acts on a customer's money is for `finance` and `admin`:
charges, refunds, credit, credit notes, writing off, prices, coupons, trials, usage. Support may
stop a subscription and take such a stop back, without giving anything back.
"""


def page(services: Mapping[str, Any], applications: Mapping[str, FastAPI]) -> str:
    """The page, for these services and the application of each."""
    lines = [INTRODUCTION]
    for name, app in applications.items():
        lines += [f"## {name}", "", *_table(app, services[name].key_rules())]
    return "\n".join(lines)


def _table(app: FastAPI, rules: Mapping[str, KeyRule]) -> Iterator[str]:
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    notes: list[str] = []
    for operation, (_, dependant) in operations_of(app):
        entry = Entry(dependant, rule_of(operation, rules))
        marks = ""
        for but in entry.notes():
            if but not in notes:
                notes.append(but)
            marks += f" ({notes.index(but) + 1})"
        yield f"| `{operation}`{marks} | {' | '.join(entry.cells())} |"
    yield ""
    for number, note in enumerate(notes, 1):
        yield f"{number}. {note[0].upper() if note[0].isalpha() else note[0]}{note[1:]}."
    if notes:
        yield ""


class Entry:
    """One operation, and what it asks of callers."""

    def __init__(self, dependant: Dependant, rule: KeyRule | None) -> None:
        asked = [one.call for one in all_dependants(dependant)]
        self.rights = [one for one in asked if isinstance(one, Right)]
        self.needs_token = caller in asked
        self.rule = rule

    def cells(self) -> Iterator[str]:
        """One for each column but the first."""
        nobody = YES if not self.needs_token else NO
        yield nobody
        for role in ROLES:
            yield self._said(Caller("person", ACCOUNT, role))
        yield nobody
        for role in STAFF:
            yield self._said(Caller("person", None, staff=role))
        yield self._scopes(OF_ACCOUNTS, account_id=ACCOUNT, role="owner")
        yield self._scopes(OF_THE_OPERATOR, account_id=None, operator_key=True)
        yield self._said(
            Caller("session", ACCOUNT, "owner", scopes=CUSTOMER, opened_by=UUID(int=2))
        )

    def notes(self) -> list[str]:
        """What else decides."""
        return [right.but for right in self.rights if right.but]

    def _said(self, asking: Caller) -> str:
        return YES if self._may(asking) else NO

    def _scopes(self, scopes: tuple[KeyScope, ...], **who: Any) -> str:
        """Of those that a key can have: which let it in, each alone."""
        if self._may(Caller("key", scopes=frozenset(), **who)):
            return ANY
        good = [s for s in scopes if self._may(Caller("key", scopes=frozenset({s}), **who))]
        return ", ".join(f"`{scope}`" for scope in good) or NO

    def _may(self, asking: Caller) -> bool:
        if not self.needs_token and self.rule is None:
            return True
        try:
            if self.rule is not None:
                self.rule.check(asking)
            for right in self.rights:
                right.check(asking)
        except Forbidden:
            return False
        return True
