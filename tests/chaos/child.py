"""One of our processes with something done to it: `python -m tests.chaos.child services.auth api`.

The environment says what. What is shipped has no switch for it: it is patched into the process
from here, before anything of the service is loaded, and nothing of the tests is in an image.

- `CHAOS_CHILD_DEFECT`: the name of a planted defect (tests/chaos/planted.py).
- `CHAOS_CHILD_CRASHPOINT`: the named place at which it dies.
- `CHAOS_CHILD_CLOCK`: seconds by which this process's clock is wrong.
- `CHAOS_CHILD_RELEASE`: it is the next release, whose events carry more than this one knows.
- `CHAOS_CHILD_MOOD`: for the provider, the file that says how it is disposed.
"""

import asyncio
import importlib
import json
import os
import random
import runpy
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

TOLD = "CHAOS_CHILD_"


def module(name: str) -> Any:
    return importlib.import_module(name)


def set_the_clock_wrong(seconds: float) -> None:
    """Whatever asks for the time gets another one; what measures durations is right."""
    right, real = time.time, module("shared.clock").utc_now
    time.time = lambda: right() + seconds
    module("shared.clock").utc_now = lambda: real() + timedelta(seconds=seconds)


def be_the_next_release() -> None:
    """Every event and its envelope have a field that this release does not know."""
    envelope = module("shared.messaging.envelope")
    write = envelope.write

    def more(event: Any, cause: Any) -> bytes:
        raw = json.loads(write(event, cause))
        raw["nextrelease"] = "an attribute of the envelope"
        raw["data"]["next_release"] = {"field": ["that", "nobody", "knows"]}
        return json.dumps(raw).encode()

    envelope.write = more


class Moody:
    """The provider's HTTP application as it is on a bad day, told by a file at each request.

    `{"mood": name, "share": of the requests}`. Health is always answered.
    """

    def __init__(self, app: Any, file: Path) -> None:
        self._app = app
        self._file = file
        self._rng = random.Random(0)  # noqa: S311  (chance, no secret)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        mood = self._mood() if scope["type"] == "http" else ""
        if not mood or scope["path"].startswith("/health"):
            await self._app(scope, receive, send)
            return
        await getattr(self, f"_{mood}")(scope, receive, send)

    def _mood(self) -> str:
        with suppress(OSError, ValueError):
            told = json.loads(self._file.read_text())
            if self._rng.random() < told["share"]:
                return str(told["mood"])
        return ""

    async def _error_before(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await _answer(send, 503)

    async def _error_after(self, scope: Any, receive: Any, send: Any) -> None:
        """It does what it was asked, and says that it failed."""

        async def swallow(_message: Any) -> None:
            return

        await self._app(scope, receive, swallow)
        await _answer(send, 500)

    async def _too_many(self, _scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await _answer(send, 429, [(b"retry-after", b"1")])

    async def _slow(self, scope: Any, receive: Any, send: Any) -> None:
        """The answer comes late: the webhook overtakes it."""

        async def late(message: Any) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(1.2)
            await send(message)

        await self._app(scope, receive, late)

    async def _nonsense(self, scope: Any, receive: Any, send: Any) -> None:
        """It does what it was asked, and answers with what cannot be read."""

        async def swallow(_message: Any) -> None:
            return

        await self._app(scope, receive, swallow)
        await _answer(send, 200, body=b"<html>Bad day</html>")


MOODS = ("error_before", "error_after", "too_many", "slow", "nonsense")


async def _answer(send: Any, status: int, headers: Any = (), body: bytes = b"{}") -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


def be_moody(file: Path) -> None:
    app = module("services.payments.sandbox.app")
    made = app.create_app
    app.create_app = lambda settings: Moody(made(settings), file)


def main() -> None:
    """Change the process as it was told, then be what was asked for."""
    name, *words = sys.argv[1:]
    if os.environ.get("PERENNIAL_ENVIRONMENT") == "production":
        raise SystemExit("Nothing is broken on purpose in production.")
    told = {k.removeprefix(TOLD): v for k, v in os.environ.items() if k.startswith(TOLD)}
    if "CRASHPOINT" in told:
        os.environ["PERENNIAL_CRASHPOINT"] = told["CRASHPOINT"]
    if "CLOCK" in told:
        set_the_clock_wrong(float(told["CLOCK"]))
    if "RELEASE" in told:
        be_the_next_release()
    if "MOOD" in told:
        be_moody(Path(told["MOOD"]))
    if "DEFECT" in told:
        module("tests.chaos.planted").put(told["DEFECT"], name, words)
    sys.argv = [name, *words]
    runpy.run_module(f"{name}.__main__", run_name="__main__")


if __name__ == "__main__":
    main()
