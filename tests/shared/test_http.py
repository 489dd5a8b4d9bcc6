"""What goes wrong between us and another server is an `httpx.HTTPError`, whatever it was."""

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvloop

from shared.http import HttpClient

ROOT = Path(__file__).parents[2]


@pytest.fixture
def resetting() -> Iterator[str]:
    """A server that resets each connection as soon as it is there."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:

        def reset() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_connection_that_is_reset_as_it_opens_is_an_error_of_the_network(resetting: str) -> None:
    async def ask() -> list[object]:
        async with HttpClient(timeout=5) as client:
            asked = [
                await asyncio.gather(
                    *(client.get(resetting) for _ in range(50)), return_exceptions=True
                )
                for _ in range(6)
            ]
        return [answer for some in asked for answer in some]

    # The loop of every process of ours: with it, httpx's own client fails this test.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        answers = runner.run(ask())

    assert len(answers) == 300
    assert {type(answer) for answer in answers if not isinstance(answer, httpx.HTTPError)} == set()


def test_nobody_uses_another_client() -> None:
    found = {
        str(path.relative_to(ROOT))
        for folder in ("services", "shared")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"httpx\.(AsyncClient|Client|get|post)\b", path.read_text())
    }

    assert found == {"shared/http.py"}
