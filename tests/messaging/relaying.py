"""A relay as a process of its own, which a test kills or freezes.

`python -m tests.messaging.relaying <schema> <database> <broker>` relays until SIGTERM.
"""

import asyncio
import signal
import sys

from shared.messaging.relay import Relay

#: How long a relay may stand still before its share goes to the others. It looks each second.
FROZEN_SECONDS = 3.0


async def main(schema: str, database_url: str, broker_url: str) -> None:
    relay = Relay(schema, database_url, broker_url, frozen_seconds=FROZEN_SECONDS)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    relay.start()
    await stopping.wait()
    await relay.stop(5)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
