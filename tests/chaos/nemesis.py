"""What goes wrong, drawn from a seed: crashes, hangs, lost connections, lost memory, repeats."""

# ruff: noqa: S311 -- chance here has to be repeatable, not secret

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from infra.environment import SERVICES
from tests.chaos.topology import Topology

#: Seconds from one fault to the next, drawn evenly from this.
GAP = (0.2, 2.0)
SERVERS_GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

Fault = Callable[[Topology, random.Random], bool]
FAULTS: dict[str, tuple[int, Fault]] = {}


def fault(weight: int) -> Callable[[Fault], Fault]:
    """Add to the list; a fault answers whether it struck."""

    def add(strike: Fault) -> Fault:
        FAULTS[strike.__name__.replace("_", " ")] = (weight, strike)
        return strike

    return add


# ---- our own processes ----------------------------------------------------------------------

#: Of the kills that would meet a process that is only just starting, these few strike.
AT_START = 0.25


def _one_of(topology: Topology, verb: str, rng: random.Random) -> str | None:
    """A process to strike: mostly one that works, or on a slow machine none ever would."""
    name = f"{rng.choice(SERVICES)}-{verb}"
    return name if rng.random() < AT_START or topology.is_ready(name) else None


@fault(20)
def worker_killed(topology: Topology, rng: random.Random) -> bool:
    name = _one_of(topology, "worker", rng)
    return name is not None and topology.kill(name)


@fault(10)
def api_killed(topology: Topology, rng: random.Random) -> bool:
    name = _one_of(topology, "api", rng)
    return name is not None and topology.kill(name)


@fault(4)
def worker_stopped_orderly(topology: Topology, rng: random.Random) -> bool:
    return topology.terminate(f"{rng.choice(SERVICES)}-worker")


@fault(8)
def process_frozen(topology: Topology, rng: random.Random) -> bool:
    return topology.freeze(rng.choice(topology.services), rng.uniform(0.5, 5))


@fault(3)
def gateway_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.kill("gateway")


@fault(5)
def provider_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.kill("sandbox")


@fault(10)
def worker_killed_in_its_transaction(topology: Topology, rng: random.Random) -> bool:
    """Its handlers are made to wait inside their transactions; then it dies."""
    service = rng.choice(SERVICES)
    if not topology.is_ready(f"{service}-worker"):
        return False

    async def strike() -> bool:
        connection = await _connect(topology)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {service}.inbox IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(rng.uniform(0.2, 0.8))
                return topology.kill(f"{service}-worker")
        finally:
            await connection.close(timeout=2)

    return _run(strike())


# ---- the broker -----------------------------------------------------------------------------


@fault(5)
def broker_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("rabbitmq") and topology.kill("rabbitmq")


@fault(4)
def broker_frozen_and_killed(topology: Topology, rng: random.Random) -> bool:
    """What was sent to it meanwhile is lost with it: only a confirm says otherwise."""
    if not topology.is_ready("rabbitmq") or not topology.freeze("rabbitmq", 60):
        return False
    time.sleep(rng.uniform(0.5, 2))
    return topology.kill("rabbitmq")


@fault(2)
def broker_frozen(topology: Topology, rng: random.Random) -> bool:
    return topology.is_ready("rabbitmq") and topology.freeze("rabbitmq", rng.uniform(1, 6))


@fault(4)
def broker_connections_closed(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("rabbitmq") and topology.rabbitmqctl("close_all_connections", "chaos")


# ---- the database ---------------------------------------------------------------------------


@fault(8)
def database_sessions_ended(topology: Topology, rng: random.Random) -> bool:
    async def strike() -> bool:
        connection = await _connect(topology)
        try:
            share = rng.uniform(0.2, 1)
            ended = await connection.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'perennial-%' AND random() < $1",
                share,
            )
            return bool(ended)
        finally:
            await connection.close(timeout=2)

    return _run(strike())


@fault(4)
def database_session_killed(topology: Topology, _rng: random.Random) -> bool:
    """Postgres then ends all sessions and recovers from its log."""

    async def strike() -> bool:
        connection = await _connect(topology)
        try:
            pid = await connection.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'perennial-%'"
                " ORDER BY random() LIMIT 1"
            )
        finally:
            await connection.close(timeout=2)
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    return _run(strike())


@fault(4)
def database_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("postgres") and topology.kill("postgres")


@fault(3)
def tables_locked(topology: Topology, rng: random.Random) -> bool:
    """Somebody holds a lock on the outbox, the inbox or the payments for a while."""
    service = rng.choice(SERVICES)
    table = rng.choice([f"{service}.outbox", f"{service}.inbox", "payments.payments"])

    async def strike() -> bool:
        connection = await _connect(topology)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(rng.uniform(0.5, 3))
                return True
        finally:
            await connection.close(timeout=2)

    return _run(strike())


# ---- the cache ------------------------------------------------------------------------------


@fault(5)
def cache_emptied(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("redis") and _redis(topology, "FLUSHALL")


@fault(3)
def cache_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.kill("redis")


@fault(2)
def cache_frozen(topology: Topology, rng: random.Random) -> bool:
    return topology.freeze("redis", rng.uniform(1, 4))


# ---- the provider's messages ----------------------------------------------------------------


@fault(4)
def webhooks_sent_again(topology: Topology, rng: random.Random) -> bool:
    """Late, twice and out of order."""
    book = sqlite3.connect(topology.sandbox_file, timeout=2)
    try:
        with book:
            done = book.execute(
                "UPDATE webhooks SET sent = NULL, due = ? WHERE sent IS NOT NULL"
                " AND position % ? = 0",
                (time.time() + rng.uniform(0, 3), rng.randint(1, 4)),
            )
    except sqlite3.OperationalError:
        return False
    else:
        return done.rowcount > 0
    finally:
        book.close()


# ---- how they strike ------------------------------------------------------------------------


async def _connect(topology: Topology) -> Any:
    return await asyncpg.connect(topology.plan.database_url, timeout=3, command_timeout=5)


def _run(strike: Any) -> bool:
    try:
        return bool(asyncio.run(strike))
    except SERVERS_GONE:
        return False


def _redis(topology: Topology, command: str) -> bool:
    async def send() -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", topology.plan.redis.port)
        try:
            words = f"AUTH {topology.plan.redis.password}\r\n{command}\r\n"
            writer.write(words.encode())
            async with asyncio.timeout(2):
                return (await reader.readline() + await reader.readline()).count(b"+OK") == 2
        finally:
            writer.close()

    return _run(send())


@dataclass
class Nemesis:
    """Strikes so many times, at instants and places that the seed decides."""

    topology: Topology
    seed: int
    faults: int
    only: tuple[str, ...] = ()
    struck: Counter[str] = field(default_factory=Counter)
    told: Callable[[str], None] = print

    def rage(self) -> None:
        """All of it. A fault whose target is down anyway does not count and is drawn anew."""
        rng = random.Random(f"nemesis {self.seed}")
        names = [name for name in FAULTS if not self.only or name in self.only]
        weights = [FAULTS[name][0] for name in names]
        while sum(self.struck.values()) < self.faults:
            self._rest(rng.uniform(*GAP))
            name = rng.choices(names, weights)[0]
            # A fault draws from a source of its own: what it needs does not shift the others.
            if FAULTS[name][1](self.topology, random.Random(rng.random())):
                self.struck[name] += 1
                self.told(name)

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.topology.tend()
            time.sleep(0.05)
