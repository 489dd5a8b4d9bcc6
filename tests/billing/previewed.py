"""An account that lives over HTTP in simulated time, and whose previews are held to their word."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tests.harness import Running
from tests.subscriptions.conftest import Client, until
from tests.tokens import TokenIssuer

Json = dict[str, Any]

#: What is known of an invoice only once it is there, or becomes of it.
OF_THE_INVOICE = frozenset(
    {
        *("id", "number", "status", "version", "issued_at", "due_at", "finalizes_at", "paid_at"),
        *("amount_paid", "amount_remaining", "amount_credited", "amount_returned"),
        *("amount_disputed", "created_at"),
    }
)
OF_THE_NOTE = frozenset({"id", "number", "issued_at", "refund_status", "version"})
#: Drawn anew for each preview.
OF_THE_LINE = frozenset({"id", "charge_id"})


@dataclass(frozen=True)
class Services:
    """All four, running; the first three are asked over HTTP."""

    subscriptions: Running
    invoicing: Running
    payments: Running
    issuer: TokenIssuer


@dataclass
class Life:
    """One account with a test clock, driven by staff."""

    services: Services
    account_id: UUID
    clock_id: str
    now: datetime
    #: The invoices and credit notes that were looked at.
    seen: set[str] = field(default_factory=set)
    #: By subscription: what the last preview said of the invoice after it.
    foretold: dict[str, Json | None] = field(default_factory=dict)

    def _client(self, service: Running, *, staff: bool = True) -> Client:
        if not staff:
            return Client(service.http, self.services.issuer.of_account(self.account_id))
        headers = self.services.issuer.of_staff("admin")
        return Client(service.http, {**headers, "Perennial-Account": str(self.account_id)})

    @property
    def subscriptions(self) -> Client:
        return self._client(self.services.subscriptions)

    @property
    def invoicing(self) -> Client:
        return self._client(self.services.invoicing)

    @property
    def payments(self) -> Client:
        return self._client(self.services.payments)

    @property
    def customer(self) -> Client:
        return self._client(self.services.subscriptions, staff=False)

    async def pay_with(self, token: str) -> str:
        """A card of its own, used from now on."""
        client = self._client(self.services.payments, staff=False)
        method = await client.post(
            "/v1/payment-methods", provider="sandbox", token=token, make_default=True
        )
        return str(method["id"])

    async def bill_to(self, **details: Any) -> None:
        """All of the account's billing details, as staff put them."""
        answer = await self.invoicing.ask("PUT", "/v1/billing-details", json=details)
        assert answer.is_success, answer.text

    async def subscribe(self, price: Json, **more: Any) -> str:
        """The path of a subscription that runs, with its first invoice paid."""
        made = await self.subscriptions.post("/v1/subscriptions", price_id=price["id"], **more)
        await self.settle()
        return f"/v1/subscriptions/{made['id']}"

    # ---- time -------------------------------------------------------------------------------

    async def advance(self, to: datetime) -> None:
        """Let time pass until everything that is due by then has come to rest."""
        path = f"/v1/test-clocks/{self.clock_id}"
        await self.subscriptions.post(f"{path}/advance", to=to.isoformat())

        async def ready() -> bool:
            return bool((await self.subscriptions.get(path))["status"] == "ready")

        await until(ready, within=240)
        self.now = to

    async def settle(self) -> None:
        """Until what was asked for has had all its effects."""
        await self.advance(self.now + timedelta(seconds=1))

    async def half_way(self, path: str) -> None:
        """To the middle of the running period."""
        held = await self.subscriptions.get(path)
        start, end = (
            datetime.fromisoformat(held[f"current_period_{bound}"]) for bound in ("start", "end")
        )
        await self.advance(start + (end - start) / 2)

    # ---- what was made ----------------------------------------------------------------------

    async def made(self, kind: str) -> list[Json]:
        """Invoices or credit notes that nobody has looked at, oldest first."""
        found = (await self.invoicing.get(f"/v1/{kind}", limit=100))["data"]
        new = [one for one in reversed(found) if one["id"] not in self.seen]
        self.seen |= {one["id"] for one in new}
        return new

    # ---- previews and what follows them -----------------------------------------------------

    async def does(self, path: str, act: str, **body: Any) -> Json:
        """Preview an act, do it, and compare. The preview also foretells the next invoice."""
        await self.look()
        kinds: dict[str, Json] = {"cancel": {"cancel": body}, "resume": {"resume": True}}
        asked = kinds.get(act, body)
        preview: Json = await self.subscriptions.post(f"{path}/preview", **asked)
        again: Json = await self.subscriptions.post(f"{path}/preview", **asked)
        equal(same(again["invoice"]), same(preview["invoice"]), "when previewed again")
        await self.subscriptions.post(f"{path}/{act}", **body)
        await self.settle()
        invoices, notes = await self.made("invoices"), await self.made("credit-notes")
        expected = [same(preview["invoice"])] if preview["invoice"] else []
        equal([same(invoice) for invoice in invoices], expected, "invoices")
        equal(
            [noted(note) for note in notes],
            [noted(note) for note in preview["credit_notes"]],
            "credit notes",
        )
        self.foretold[path] = preview["next_invoice"]
        return preview

    async def look(self) -> None:
        """Whatever was made so far is known."""
        await self.made("invoices")
        await self.made("credit-notes")

    async def comes_next(self, path: str, *, wait: timedelta = timedelta(hours=1)) -> Json:
        """The invoice that comes by itself, which is the one that was foretold."""
        invoice, _ = await self.passes(path, wait=wait)
        assert invoice is not None
        return invoice

    async def passes(
        self, path: str, *, wait: timedelta = timedelta(hours=1)
    ) -> tuple[Json | None, list[Json]]:
        """What time bills next is what was foretold, by the last act and now."""
        await self.look()
        about = path.rpartition("/")[2]
        preview: Json = await self.customer.post(f"{path}/preview")
        told = preview["next_invoice"]
        query = f"/v1/invoices/upcoming?subscription_id={about}"
        upcoming = await self.customer.ask("GET", query)
        assert upcoming.status_code == (200 if told["invoice"] else 404), upcoming.text
        if told["invoice"]:
            equal(same(upcoming.json()), same(told["invoice"]), "upcoming")
        if path in self.foretold:
            before = self.foretold.pop(path)
            assert before is not None
            equal(same(told["invoice"]), same(before["invoice"]), "foretold by the last act")
            assert before["at"] == told["at"]
        await self.advance(datetime.fromisoformat(told["at"]) + wait)
        made = [one for one in await self.made("invoices") if about in one["subscription_ids"]]
        expected = [same(told["invoice"])] if told["invoice"] else []
        equal([same(invoice) for invoice in made], expected, "invoices")
        notes = await self.made("credit-notes")
        equal(
            [noted(note) for note in notes],
            [noted(note) for note in told["credit_notes"]],
            "credit notes",
        )
        return made[0] if made else None, notes


def equal(made: Any, told: Any, where: str) -> None:
    """What was made is what was foretold; each difference is named."""
    assert made == told, "\n".join(differences(made, told, where))


def differences(made: Any, told: Any, where: str) -> Iterator[str]:
    if isinstance(made, dict) and isinstance(told, dict):
        for name in {**made, **told}:
            yield from differences(made.get(name), told.get(name), f"{where}.{name}")
    elif isinstance(made, list) and isinstance(told, list) and len(made) == len(told):
        for number, pair in enumerate(zip(made, told, strict=True)):
            yield from differences(*pair, f"{where}[{number}]")
    elif made != told:
        yield f"{where}: foretold {told!r}, made {made!r}"


def same(invoice: Json | None) -> Json | None:
    """An invoice without what nobody can foretell."""
    if invoice is None:
        return None
    kept = {name: said for name, said in invoice.items() if name not in OF_THE_INVOICE}
    return {**kept, "lines": [without(line, OF_THE_LINE) for line in invoice["lines"]]}


def noted(note: Json) -> Json:
    kept = {name: said for name, said in note.items() if name not in OF_THE_NOTE}
    return {**kept, "lines": [without(line, OF_THE_LINE) for line in note["lines"]]}


def without(thing: Json, names: frozenset[str]) -> Json:
    return {name: said for name, said in thing.items() if name not in names}


def total(invoice: Json) -> int:
    return int(invoice["total"]["amount"])
