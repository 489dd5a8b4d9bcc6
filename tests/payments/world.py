"""The payments service driven by hand: events in, jobs run, rows and events read back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
import orjson
import uvicorn
from sqlalchemy import delete, func, select, text, update

from services.payments import schedule
from services.payments.collector import Collector
from services.payments.consumers import collect_invoice
from services.payments.domain.payments import Attempt, Payment
from services.payments.main import service
from services.payments.providers.base import Method
from services.payments.repository import PaymentsUnitOfWork
from services.payments.sandbox.webhooks import sign
from services.payments.settings import PaymentsSettings
from services.payments.tables import (
    attempts,
    ledger_entries,
    payments,
    refunds,
    webhook_events,
)
from services.payments.use_cases.keep_payment_methods import attach_payment_method
from shared.clock import utc_now
from shared.events.base import Event
from shared.events.invoicing import InvoiceFinalized
from shared.ids import new_id
from shared.runtime import Runtime
from shared.schedule import Due
from tests.declared import DeclaredTransport
from tests.harness import Deployment
from tests.payments.factories import an_invoice_finalized, an_invoice_paid
from tests.payments.servers import SECRET, Sandbox
from tests.tokens import TokenIssuer


@dataclass
class World:
    """One account and what happens to it, unless a test names another."""

    runtime: Runtime[PaymentsUnitOfWork, PaymentsSettings]
    http: httpx.AsyncClient
    sandbox: Sandbox
    issuer: TokenIssuer
    account_id: UUID = field(default_factory=new_id)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, deployment: Deployment, sandbox: Sandbox, issuer: TokenIssuer, **settings: Any
    ) -> AsyncIterator["World"]:
        made = deployment.settings(service, **settings)
        async with AsyncExitStack() as stack:
            runtime = await stack.enter_async_context(service.open(made))
            runtime.verifier = issuer.verifier(made)
            transport = DeclaredTransport(service.create_api(runtime))
            http = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://test")
            )
            yield cls(runtime, http, sandbox, issuer)

    @property
    def member(self) -> dict[str, str]:
        return self.issuer.of_account(self.account_id, sub=f"user:{self.account_id}")

    @property
    def finance(self) -> dict[str, str]:
        return self.issuer.of_staff("finance", sub=f"user:finance-{self.account_id}")

    @property
    def collector(self) -> Collector:
        return schedule.collector_of(self.runtime)

    async def attach(self, token: str = "tok_ok", **more: Any) -> UUID:  # noqa: S107  (no secret)
        answer = await self.http.post(
            "/v1/payment-methods",
            json={"provider": "sandbox", "token": token, **more},
            headers=self.member,
        )
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"])

    async def hear(self, event: dict[str, Any], secret: str = SECRET) -> httpx.Response:
        """A webhook comes in, signed by the sandbox's secret."""
        body = json.dumps(event).encode()
        signature = sign(body, secret=secret, timestamp=int(time.time()))
        return await self.http.post(
            "/v1/webhooks/sandbox", content=body, headers={"Sandbox-Signature": signature}
        )

    async def attach_directly(self, provider: str) -> UUID:
        """Another account with a method of a provider that no server of is here."""
        self.account_id = new_id()
        async with self.runtime.begin() as uow:
            method = await attach_payment_method(
                uow,
                account_id=self.account_id,
                provider=provider,
                method=Method(reference=f"pm_{self.account_id}"),
                make_default=True,
                now=utc_now(),
            )
        return method.id

    async def take(self, event: Event) -> None:
        """Handle an event as the consumer would."""
        async with self.runtime.begin() as uow:
            await collect_invoice(uow, event)  # type: ignore[arg-type]  # any event that it takes

    async def finalize(self, **given: Any) -> InvoiceFinalized:
        """An invoice is finalized; its payment is due."""
        usual = {"account_id": self.account_id, "occurred_at": utc_now()}
        event = an_invoice_finalized(**{**usual, **given})
        await self.take(event)
        return event

    async def collect(self, *, at: datetime | None = None) -> None:
        """Run the collecting job until nothing is due, and wait for every answer."""
        due = Due(at or utc_now(), self.runtime.database.platform)
        if at is not None:
            due = Due(at, self.runtime.database.platform, self.account_id)
        while await schedule.collect_due(self.runtime, due):
            pass
        await self.collector.drain()

    async def reconcile(self) -> None:
        """Let the reconciler ask about everything that is open, as if its time had come."""
        async with self.runtime.begin() as uow:
            open_ones = attempts.c.status.in_(("unknown", "requires_action"))
            await uow.session.execute(
                update(attempts)
                .where(open_ones)
                .values(ask_at=text("now()"), deadline=text("now()"))
            )
        await self.run(schedule.ask_providers)

    async def reconcile_if_due(self, attempt_id: UUID) -> None:
        """Let the time of this attempt's next question come, where there is to be one."""
        async with self.runtime.begin() as uow:
            await uow.session.execute(
                update(attempts)
                .where(attempts.c.id == attempt_id, attempts.c.ask_at.is_not(None))
                .values(ask_at=text("now()"), deadline=text("now()"))
            )
        await self.run(schedule.ask_providers)

    async def run(self, job: Any, *, at: datetime | None = None) -> int:
        platform = self.runtime.database.platform
        due = Due(at, platform, self.account_id) if at else Due(utc_now(), platform)
        done = 0
        while count := await job(self.runtime, due):
            done += count
        return done

    async def pay_everything(self) -> None:
        """Whatever is under way comes to its end."""
        await self.run(schedule.work_off_webhooks)
        await self.collect()
        await self.reconcile()
        await self.collect()
        await self.run(schedule.send_refunds)

    async def payment(self, event: InvoiceFinalized) -> Payment:
        async with self.runtime.begin() as uow:
            found = await uow.session.scalars(
                select(Payment).where(payments.c.invoice_id == event.invoice_id)
            )
            return found.one()

    async def attempts(self, event: InvoiceFinalized) -> list[Attempt]:
        async with self.runtime.begin() as uow:
            found = await uow.session.scalars(
                select(Attempt)
                .where(attempts.c.invoice_id == event.invoice_id)
                .order_by(attempts.c.number)
            )
            return list(found)

    async def invoice_paid(self, event: InvoiceFinalized) -> None:
        """Invoicing reports that our payment paid it."""
        payment = await self.payment(event)
        await self.take(an_invoice_paid(event, payment_id=payment.id))

    async def emitted(self, *about: UUID) -> list[dict[str, Any]]:
        """What was reported of these aggregates or of the account, in order."""
        outbox = self.runtime.database.platform.outbox
        criterion = outbox.c.account_id == self.account_id
        if about:
            criterion = outbox.c.aggregate_id.in_(about)
        async with self.runtime.begin() as uow:
            rows = await uow.session.execute(
                select(outbox.c.body).where(criterion).order_by(outbox.c.position)
            )
            return [orjson.loads(row.body) for row in rows]

    async def names(self) -> list[str]:
        """The names of what was reported of the account, in order."""
        return [body["type"] for body in await self.emitted()]

    async def balances(self) -> dict[str, int]:
        """The account's books, those that stand at zero left out."""
        async with self.runtime.begin() as uow:
            rows = await uow.session.execute(
                select(ledger_entries.c.ledger_account, func.sum(ledger_entries.c.amount))
                .where(ledger_entries.c.account_id == self.account_id)
                .group_by(ledger_entries.c.ledger_account)
            )
            return {name: int(amount) for name, amount in rows if amount}

    async def all_balances(self) -> dict[str, int]:
        """The books of everybody, what belongs to no account (a payout) too."""
        async with self.runtime.begin() as uow:
            rows = await uow.session.execute(
                select(ledger_entries.c.ledger_account, func.sum(ledger_entries.c.amount)).group_by(
                    ledger_entries.c.ledger_account
                )
            )
            return {name: int(amount) for name, amount in rows}

    async def set_clock(self, now: datetime) -> None:
        """Put the account under a test clock."""
        clocks = self.runtime.database.platform.account_clocks
        async with self.runtime.begin() as uow:
            await uow.session.execute(delete(clocks).where(clocks.c.account_id == self.account_id))
            await uow.session.execute(
                clocks.insert().values(
                    account_id=self.account_id,
                    clock_id=new_id(),
                    now=now,
                    revision=1,
                    reported_revision=1,
                )
            )

    async def ask_refunds_now(self) -> None:
        async with self.runtime.begin() as uow:
            await uow.session.execute(
                update(refunds).where(refunds.c.status == "pending").values(ask_at=text("now()"))
            )

    async def webhooks_are_due(self) -> None:
        """As if the wait of those that failed were over."""
        async with self.runtime.begin() as uow:
            await uow.session.execute(
                update(webhook_events)
                .where(webhook_events.c.process_at.is_not(None))
                .values(process_at=text("now()"))
            )

    @asynccontextmanager
    async def taking_webhooks(self) -> AsyncIterator[None]:
        """The API on the port that the sandbox sends its webhooks to."""
        server = uvicorn.Server(
            uvicorn.Config(
                service.create_api(self.runtime),
                port=self.sandbox.webhook_port,
                log_config=None,
                lifespan="off",
            )
        )
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:  # noqa: ASYNC110  (uvicorn offers no event)
                await asyncio.sleep(0.01)
            yield
        finally:
            server.should_exit = True
            await serving
