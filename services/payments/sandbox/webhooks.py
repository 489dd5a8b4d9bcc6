"""Signed webhooks, sent in the background until the receiver has taken them."""

import asyncio
import hashlib
import hmac
import time

import httpx

from services.payments.sandbox.books import Books, Row
from shared.http import HttpClient

SIGNATURE_HEADER = "Sandbox-Signature"
LONGEST_WAIT_SECONDS = 60.0
GIVE_UP_AFTER_TRIES = 50
BATCH = 50


def sign(body: bytes, *, secret: str, timestamp: int) -> str:
    """`t=<unix seconds>,v1=<hex HMAC-SHA-256 over "t.body">`, as Stripe does it."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"t={timestamp},v1={digest.hexdigest()}"


class Sender:
    """Takes what is due from the books and posts it, side by side."""

    def __init__(self, books: Books, *, url: str, secret: str) -> None:
        self._books = books
        self._url = url
        self._secret = secret

    async def run(self) -> None:
        if not self._url:
            return
        async with HttpClient(timeout=10, verify=self._url.startswith("https")) as client:
            while True:
                due = self._books.all(
                    "SELECT * FROM webhooks WHERE sent IS NULL AND due <= ? ORDER BY due LIMIT ?",
                    time.time(),
                    BATCH,
                )
                await asyncio.gather(*(self._send(client, row) for row in due))
                if len(due) < BATCH:
                    await asyncio.sleep(0.1)

    async def _send(self, client: HttpClient, row: Row) -> None:
        body = row["body"].encode()
        taken = True
        for _ in range(row["copies"]):
            signature = sign(body, secret=self._secret, timestamp=int(time.time()))
            headers = {SIGNATURE_HEADER: signature, "Content-Type": "application/json"}
            try:
                answer = await client.post(self._url, content=body, headers=headers)
                taken = taken and answer.is_success
            except httpx.HTTPError:
                taken = False
        tries = row["tries"] + 1
        if taken or tries >= GIVE_UP_AFTER_TRIES:
            self._books.run(
                "UPDATE webhooks SET sent = ?, tries = ? WHERE position = ?",
                time.time(),
                tries,
                row["position"],
            )
        else:
            wait = min(LONGEST_WAIT_SECONDS, 0.5 * 2.0 ** min(tries, 10))
            self._books.run(
                "UPDATE webhooks SET due = ?, tries = ? WHERE position = ?",
                time.time() + wait,
                tries,
                row["position"],
            )
