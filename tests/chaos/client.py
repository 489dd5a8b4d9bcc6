"""One person at the gateway: asks under a key until an answer counts, and checks what is said."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import httpx

from tests.chaos.history import Call, History

#: Refusals that mean: the news has not come here yet, ask again.
NOT_YET = {
    "account-not-ready",
    "account-not-found",
    "idempotency-key-in-progress",
    "test-clock-busy",
}
BUSY = {408, 425, 429, 500, 502, 503, 504}
#: Of the requests that make something, so many are also sent beside themselves and again later.
DOUBLED = 0.1


class GaveUp(Exception):
    """No answer that counts within the patience."""


class Client:
    """One person at the gateway. A request keeps its key until an answer counts."""

    def __init__(
        self,
        url: str,
        history: History,
        name: str,
        rng: random.Random,
        is_patient: Callable[[float], bool],
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=20)
        self._history = history
        self._rng = rng
        self.is_patient = is_patient
        self.name = name
        self.log_in: Callable[[], str] | None = None

    def close(self) -> None:
        self._http.close()

    def use(self, token: str) -> None:
        self._http.headers["Authorization"] = f"Bearer {token}"

    def act_for(self, account: str) -> None:
        """Staff who speak for a customer."""
        self._http.headers["Perennial-Account"] = account

    def ask(self, what: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and body of the answer that counted."""
        key = str(UUID(int=self._rng.getrandbits(128), version=4))
        began, tries = self._history.now(), 0
        started = time.monotonic()
        status, told, code = None, {}, ""
        while self.is_patient(started):
            tries += 1
            try:
                answer = self._http.request(
                    method, path, json=body, headers={"Idempotency-Key": key}
                )
            except httpx.HTTPError:
                time.sleep(0.3)
                continue
            told = _json(answer)
            code = str(told.get("code", "")) if isinstance(told, dict) else ""
            if answer.status_code == 401 and self.log_in is not None and what != "log in":
                time.sleep(0.1)
                self.use(self.log_in())
                continue
            if answer.status_code in BUSY or code in NOT_YET:
                time.sleep(min(2.0, float(answer.headers.get("Retry-After", "0.3"))))
                continue
            status = answer.status_code
            break
        made = str(told.get("id", "")) if status == 201 and isinstance(told, dict) else ""
        self._history.add(
            Call(self.name, what, key, began, self._history.now(), tries, status, code, made)
        )
        if status is None:
            self._history.give_up(f"{self.name}: no answer to {what} ({code or 'silence'})")
            raise GaveUp(what)
        return status, told

    def make(self, what: str, path: str, body: Any) -> Any:
        """A POST that makes something; now and then it is sent twice at once, and later again."""
        if self._rng.random() >= DOUBLED:
            return self.must(what, "POST", path, body)
        again = httpx.Request("POST", self._http.base_url.join(path), json=body)
        state = self._rng.getstate()
        key = str(UUID(int=self._rng.getrandbits(128), version=4))
        self._rng.setstate(state)  # so that `must` draws the same key
        with ThreadPoolExecutor(1) as beside:
            twin = beside.submit(self._once, again, key)
            told = self.must(what, "POST", path, body)
            twins = [twin.result(), self._once(again, key)]
        for status, other in twins:
            if status is not None and status < 300 and other != told:
                self._history.surprise(f"{self.name}: {what}: {told} and then {other} for one key")
        another = httpx.Request("POST", again.url, json={**body, "twin": True})
        status, other = self._once(another, key)
        if status is not None and status not in {*BUSY, 401, 409, 422}:
            self._history.surprise(f"{self.name}: {what}: {status} {other} for a key used already")
        return told

    def _once(self, asked: httpx.Request, key: str) -> tuple[int | None, Any]:
        """As it is, without patience."""
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        try:
            answer = self._http.post(asked.url, content=asked.content, headers=headers)
        except httpx.HTTPError:
            return None, None
        return answer.status_code, _json(answer)

    def must(self, what: str, method: str, path: str, body: Any = None) -> Any:
        """The same for what cannot be refused."""
        status, told = self.ask(what, method, path, body)
        if status >= 300:
            self._history.surprise(f"{self.name}: {what} was refused: {status} {told}")
            raise GaveUp(f"{what}: {status} {told}")
        return told


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else {}
    except ValueError:
        return {}
