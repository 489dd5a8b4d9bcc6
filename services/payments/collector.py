"""Sends claimed charges to their providers, many side by side, outside any transaction."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

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
#: So many answers at most are written down in one transaction.
AT_ONCE = 25


@dataclass(eq=False)
class Answer:
    """What a provider said to a charge, until it is written down."""

    claim: Claim
    outcome: ChargeOutcome
    is_taken: bool = False
    written: asyncio.Event = field(default_factory=asyncio.Event)


class Collector:
    """A bounded number of charges under way in this process.

    Waiting for a provider holds a slot here and nothing else: no transaction, no connection.
    What is lost with the process is found by the reconciler once its deadline has passed.
    """

    def __init__(self, begin: Begin, *, slots: int, connections: int) -> None:
        self._begin = begin
        self._slots = slots
        # Answers that come all at once queue up here, and not for connections, where waiting
        # too long is an error; who gets a turn writes down what waits with it.
        self._writers = connections
        self._turns = asyncio.Semaphore(connections)
        self._answers: deque[Answer] = deque()
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
        answer = Answer(claim, await self._charge(claim))
        crashpoint("payments.after_call")
        self._answers.append(answer)
        async with self._turns:
            while not answer.is_taken:
                await self._write_down(self._share())
        await answer.written.wait()

    async def drain(self) -> None:
        """Let what is under way come to its end; each call has a time-out of its own."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _share(self) -> list[Answer]:
        """The oldest answers that wait: one writer's part of them."""
        part = -(-len(self._answers) // self._writers)
        taken = [self._answers.popleft() for _ in range(min(part, AT_ONCE))]
        for answer in taken:
            answer.is_taken = True
        return taken

    async def _write_down(self, answers: list[Answer]) -> None:
        """Settle these in one transaction; should that fail, each in one of its own."""
        try:
            await self._settle(answers)
        except Exception as fault:
            if len(answers) > 1:
                log.warning("Charges are settled one by one", error=type(fault).__name__)
                for answer in answers:
                    await self._write_down([answer])
            else:
                # It is stored as unknown: the reconciler asks once its deadline has passed.
                attempt_id = str(answers[0].claim.attempt_id)
                log.exception("A charge could not be settled", attempt_id=attempt_id)
        finally:
            for answer in answers:
                answer.written.set()

    async def _settle(self, answers: list[Answer]) -> None:
        async with self._begin() as uow:
            # Whoever locks several payments does it in the order of their ids.
            for answer in sorted(answers, key=lambda answer: answer.claim.payment_id):
                await settle_attempt(
                    uow,
                    payment_id=answer.claim.payment_id,
                    attempt_id=answer.claim.attempt_id,
                    outcome=answer.outcome,
                    real_now=utc_now(),
                )
            crashpoint("payments.before_settling_commits")
        crashpoint("payments.settled")

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
