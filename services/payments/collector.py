"""Sends claimed charges to their providers, many side by side, outside any transaction."""

import asyncio
from collections.abc import Sequence

from services.payments.domain.payments import MARGIN
from services.payments.providers import provider
from services.payments.providers.base import ChargeOutcome, Uncertain
from services.payments.traffic import Traffic
from services.payments.use_cases.ask_providers import Begin
from services.payments.use_cases.collect_payments import Claim
from services.payments.use_cases.settle_attempt import settle_attempt
from shared.clock import utc_now
from shared.crashpoint import crashpoint
from shared.ids import new_id
from shared.observability import logger

log = logger(__name__)

GATHER_SECONDS = 0.01


class Collector:
    """A bounded number of charges under way in this process.

    Waiting for a provider holds a slot here and nothing else: no transaction, no connection.
    What is lost with the process is found by the reconciler once its deadline has passed.
    """

    def __init__(self, begin: Begin, *, slots: int, connections: int) -> None:
        self._begin = begin
        self._slots = slots
        # Answers that come all at once queue up here, and not for connections, where waiting
        # too long is an error.
        self._settling = asyncio.Semaphore(connections)
        self._tasks: set[asyncio.Task[None]] = set()
        self.traffic = Traffic()
        self.owner = str(new_id())

    @property
    def free(self) -> int:
        return self._slots - len(self._tasks)

    @property
    def reserve(self) -> int:
        """The slots that only those get for whom a customer waits."""
        return self._slots // 4

    async def wait_for_slot(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            # Others end at the same moment; one look at what is due then serves them all.
            await asyncio.sleep(GATHER_SECONDS)

    def start(self, claims: Sequence[Claim]) -> list[asyncio.Task[None]]:
        """Send these charges in the background."""
        tasks = [asyncio.create_task(self.collect(claim)) for claim in claims]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return tasks

    async def collect(self, claim: Claim) -> None:
        """Send one charge and write down what became of it."""
        crashpoint("payments.before_call")
        outcome = await self._charge(claim)
        crashpoint("payments.after_call")
        try:
            async with self._settling, self._begin() as uow:
                await settle_attempt(
                    uow,
                    payment_id=claim.payment_id,
                    attempt_id=claim.attempt_id,
                    outcome=outcome,
                    real_now=utc_now(),
                )
                crashpoint("payments.before_settling_commits")
            crashpoint("payments.settled")
        except Exception:
            # The attempt is stored as unknown: the reconciler asks once its deadline has passed.
            log.exception("A charge could not be settled", attempt_id=str(claim.attempt_id))

    async def drain(self) -> None:
        """Let what is under way come to its end; each call has a time-out of its own."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _charge(self, claim: Claim) -> ChargeOutcome:
        to = provider(claim.provider)
        lane = self.traffic.lane(claim.provider, rate=to.calls_per_second)
        outcome: ChargeOutcome
        if utc_now() > claim.send_before:
            # This process was held up. Others may have given the attempt up: never send it now.
            return Uncertain(reason="held up before it was sent")
        try:
            async with asyncio.timeout((to.longest_call + MARGIN / 2).total_seconds()):
                outcome = await to.charge(claim.request)
        except Exception as fault:  # noqa: BLE001  (whatever a plug-in does, money may have moved)
            outcome = Uncertain(reason=type(fault).__name__)
        lane.note(lost=isinstance(outcome, Uncertain), outcome=type(outcome).__name__.lower())
        return outcome
