"""What every call of the sandbox shares: refusals, bodies, and doing a thing once per key."""

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict

from services.payments.sandbox.books import Books, Row
from services.payments.sandbox.settings import SandboxSettings

Answer = tuple[int, Row]


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: Row = {"error": {"code": code, "message": message, **more}}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


def books_of(request: Request) -> Books:
    books: Books = request.app.state.books
    return books


def settings_of(request: Request) -> SandboxSettings:
    settings: SandboxSettings = request.app.state.settings
    return settings


InBooks = Annotated[Books, Depends(books_of)]
InSettings = Annotated[SandboxSettings, Depends(settings_of)]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1)]


def once(books: Books, key: str, asked: Row, work: Callable[[], Answer]) -> JSONResponse:
    """Do the work for a key once; the same question again gets the first answer again."""
    fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    with books.transaction():
        earlier = books.one("SELECT * FROM requests WHERE key = ?", key)
        if earlier is None:
            status, body = work()
            books.insert(
                "requests", key=key, fingerprint=fingerprint, status=status, body=json.dumps(body)
            )
            return JSONResponse(body, status)
    if earlier["fingerprint"] != fingerprint:
        raise Refusal(400, "key_reused", "This key was used with other parameters.")
    return JSONResponse(
        json.loads(earlier["body"]), earlier["status"], {"Idempotent-Replayed": "true"}
    )


async def refuse(_: Request, refusal: Exception) -> JSONResponse:
    if not isinstance(refusal, Refusal):
        raise refusal
    return JSONResponse(refusal.body, refusal.status)


def bank_page(what: str, path: str) -> HTMLResponse:
    """What a payer's bank would show; the call on it is what its button would do."""
    return HTMLResponse(
        f"<!doctype html><title>Sandbox bank</title><h1>Sandbox bank</h1><p>{what}</p>"
        f"<p><code>curl -X POST -H 'Content-Type: application/json' -d '{{}}' …{path}</code></p>"
    )
