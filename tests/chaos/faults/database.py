"""Postgres: killed, without its sessions, locked, read-only, full, and lost to its standby."""

import asyncio
import os
import random
import signal
from contextlib import suppress

from infra.environment import SERVICES
from tests.chaos.faults.base import connect, fault, run
from tests.chaos.servers import ask
from tests.chaos.topology import Topology


@fault(8)
def database_sessions_ended(topology: Topology, rng: random.Random) -> bool:
    async def strike() -> bool:
        connection = await connect(topology)
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

    return run(strike())


@fault(4)
def database_session_killed(topology: Topology, _rng: random.Random) -> bool:
    """Postgres then ends all sessions and recovers from its log."""

    async def strike() -> bool:
        connection = await connect(topology)
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

    return run(strike())


@fault(4)
def database_killed(topology: Topology, _rng: random.Random) -> bool:
    return topology.is_ready("postgres") and topology.kill("postgres")


@fault(3)
def tables_locked(topology: Topology, rng: random.Random) -> bool:
    """Somebody holds a lock on the outbox, the inbox or the payments for a while."""
    service = rng.choice(SERVICES)
    table = rng.choice([f"{service}.outbox", f"{service}.inbox", "payments.payments"])

    async def strike() -> bool:
        connection = await connect(topology)
        try:
            async with connection.transaction():
                await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
                await asyncio.sleep(rng.uniform(0.5, 3))
                return True
        finally:
            await connection.close(timeout=2)

    return run(strike())


def _settings(topology: Topology, what: str, begin: str, end: str, seconds: float) -> bool:
    """A setting of the whole server for a while."""
    reload = "SELECT pg_reload_conf()"
    if topology.goes_on(what) or not ask(topology.plan.database_url, begin, reload):
        return False
    writable = "SET default_transaction_read_only = off"

    def undo() -> bool:
        return ask(topology.plan.database_url, writable, end, reload)

    topology.later(what, seconds, undo)
    return True


@fault(3)
def database_read_only(topology: Topology, rng: random.Random) -> bool:
    name = "default_transaction_read_only"
    return _settings(
        topology,
        "read only",
        f"ALTER SYSTEM SET {name} = on",
        f"ALTER SYSTEM RESET {name}",
        rng.uniform(1, 5),
    )


def _no_disk(topology: Topology) -> str:
    return "" if topology.disk.mounted else "a disk of one's own takes root"


@fault(2, _no_disk)
def database_disk_full(topology: Topology, rng: random.Random) -> bool:
    if topology.goes_on("disk") or not topology.is_ready("postgres") or not topology.disk.fill():
        return False
    topology.later("disk", rng.uniform(2, 5), topology.disk.free)
    return True


def _no_standby(topology: Topology) -> str:
    return "" if topology.shape.standby else "no standby (CHAOS_STANDBY=sync)"


@fault(6, _no_standby)
def database_failed_over(topology: Topology, rng: random.Random) -> bool:
    """The primary is lost with what its standby had not received by then."""
    return topology.fail_over(rng.uniform(0.3, 1.5))
