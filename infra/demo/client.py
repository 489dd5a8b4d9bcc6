"""The HTTP client of the story: speaks to the gateway and says clearly what went wrong."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx


class StoryFailed(Exception):
    """The system did not do what the story tells; the text says where."""


class Client:
    """One person at the gateway. Answers are JSON objects; a refusal ends the story."""

    def __init__(self, base_url: str, token: str | None = None, account: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if account:
            headers["Perennial-Account"] = account
        self.http = httpx.Client(base_url=base_url, headers=headers, timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._ask("GET", path, params=params)

    def put(self, path: str, **body: Any) -> Any:
        return self._ask("PUT", path, json=body)

    def patch(self, path: str, **body: Any) -> Any:
        return self._ask("PATCH", path, json=body)

    def post(self, path: str, **body: Any) -> Any:
        """Every POST carries a key of its own, so that a lost answer could be asked for again."""
        return self._ask("POST", path, json=body, headers={"Idempotency-Key": str(uuid4())})

    def download(self, path: str) -> bytes:
        """A document, wherever it is kept."""
        return self._send("GET", path, follow_redirects=True).content

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        answer = self._send(method, path, **how)
        return answer.json() if answer.content else {}

    def _send(self, method: str, path: str, **how: Any) -> httpx.Response:
        for _ in range(5):
            try:
                answer = self.http.request(method, path, **how)
            except httpx.HTTPError as error:
                raise StoryFailed(f"{method} {path}: no answer ({error})") from error
            if answer.status_code not in {429, 503}:
                break
            time.sleep(float(answer.headers.get("Retry-After", "1")))
        if answer.is_error:
            raise StoryFailed(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer


def until(what: str, look: Callable[[], Any], *, within_seconds: float = 30) -> Any:
    """What `look` finds once it finds something; asks often, waits for a fact, not for a time."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise StoryFailed(f"waited {within_seconds:.0f} s in vain: {what}")


def newest_mail(mailbox: Path, address: str) -> str:
    """The text of the newest mail to an address, from the development mailbox."""

    def look() -> str | None:
        mails = sorted((mailbox / address).glob("*"))
        return mails[-1].read_text() if mails else None

    return str(until(f"a mail to {address} in {mailbox}", look))
