"""A reverse proxy before localstripe that gives it what it lacks of the real Stripe.

localstripe is somebody else's (GPL) and runs as a process of its own; nothing of it is imported.
What only this shim adds, and a test against it therefore proves of our side alone: idempotency
keys, search, decline codes and card errors, off-session 3-D Secure as a 402, setup intents that
are confirmed as they are made, the limit of refunds and refunds that come back,
`amount_received`, fees, lost answers; and disputes and payouts as a whole, which are made by
`POST /_shim/…` in the shape that Stripe documents.
"""

import hashlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.payments.servers import free_port

RUNNER = """
import sys
from aiohttp import web
from localstripe import server
web.run_app(server.app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""

#: Our test tokens: the card that localstripe is given, and the decline that it is to look like.
CARDS = {
    "pm_shim_ok": ("4242424242424242", None),
    "pm_shim_insufficient_funds": ("4000000000000341", "insufficient_funds"),
    "pm_shim_expired_card": ("4000000000000341", "expired_card"),
    "pm_shim_fraudulent": ("4000000000000341", "fraudulent"),
    "pm_shim_action": ("4000002500003155", None),
    "pm_shim_confirm_first": ("4000002500003155", None),
    "pm_shim_timeout_before": ("4242424242424242", None),
    "pm_shim_timeout_after": ("4242424242424242", None),
}
NOT_TAKEN = re.compile(
    r"^(expand|created|limit$|off_session|confirm$|cancellation_reason|return_url)"
)
#: What our answers of a list may be about; localstripe keeps no such things.
OURS = ("disputes", "payouts")
FEE_OF_A_DISPUTE = 1500

Form = dict[str, str]
Answer = tuple[int, Any]


class Shim:
    """State that localstripe does not keep."""

    def __init__(self, upstream: str) -> None:
        self._http = httpx.AsyncClient(base_url=upstream, verify=False, timeout=10)  # noqa: S501  (plain HTTP)
        self._tokens: dict[str, str] = {}
        self._answers: dict[str, tuple[str, Answer]] = {}
        self._running: set[str] = set()
        self._hung: set[str] = set()
        self._intents: dict[str, str] = {}
        self._errors: dict[str, dict[str, str]] = {}
        self._received: dict[str, int] = {}
        self._refunded: dict[str, int] = {}
        self._came_back: set[str] = set()
        self._made: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in OURS}

    async def handle(self, request: Request) -> Response:
        body = await request.body()
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        auth = {"Authorization": request.headers.get("authorization", "")}
        key = request.headers.get("idempotency-key", "")
        if request.url.path.startswith("/_config/"):
            told = await self._http.request(request.method, request.url.path, content=body)
            return Response(told.content, told.status_code)
        if request.url.path.startswith("/_shim/"):
            return _response((200, await self._happen(request.url.path, auth)))
        if request.method != "POST" or not key:
            query = dict(request.query_params)
            return _response(await self._plain(request.method, request.url.path, query, form, auth))
        path = request.url.path
        token = self._tokens.get(form.get("payment_method", ""), "")
        hangs = path == "/v1/payment_intents" and "timeout" in token and key not in self._hung
        if hangs:
            self._hung.add(key)
        if hangs and token == "pm_shim_timeout_before":
            return _response((504, _error("api_error", "timeout")))
        answer = await self._once(key, path, body, form, auth)
        return _response((504, _error("api_error", "timeout"))) if hangs else answer

    async def _once(
        self, key: str, path: str, body: bytes, form: Form, auth: dict[str, str]
    ) -> Response:
        fingerprint = hashlib.sha256(path.encode() + body).hexdigest()
        if key in self._running:
            return _response((409, _error("idempotency_error", "idempotency_key_in_use")))
        if key in self._answers:
            earlier, answer = self._answers[key]
            if earlier != fingerprint:
                return _response((400, _error("idempotency_error", "idempotency_error")))
            return _response(answer, {"Idempotent-Replayed": "true"})
        self._running.add(key)
        try:
            answer = await self._post(path, form, auth)
            self._answers[key] = (fingerprint, answer)
        finally:
            self._running.discard(key)
        return _response(answer)

    async def _post(self, path: str, form: Form, auth: dict[str, str]) -> Answer:
        attach = re.fullmatch(r"/v1/payment_methods/(\w+)/attach", path)
        if attach and attach[1] in CARDS:
            return await self._attach(attach[1], form, auth)
        if path == "/v1/setup_intents":
            return await self._set_up(form, auth)
        if path == "/v1/payment_intents":
            return await self._create(form, auth)
        if capture := re.fullmatch(r"/v1/payment_intents/(\w+)/capture", path):
            status, intent = await self._send("POST", path, form, auth)
            if status == 200:
                amount = int(form.get("amount_to_capture", intent["amount"]))
                self._received[capture[1]] = amount
            return status, self._seen(intent)
        if path == "/v1/refunds":
            return await self._refund(form, auth)
        status, answer = await self._send("POST", path, form, auth)
        return status, self._seen(answer)

    async def _attach(self, token: str, form: Form, auth: dict[str, str]) -> Answer:
        card = {
            "type": "card",
            "card[number]": CARDS[token][0],
            "card[exp_month]": "12",
            "card[exp_year]": "2040",
            "card[cvc]": "123",
        }
        status, method = await self._send("POST", "/v1/payment_methods", card, auth)
        if status != 200:
            return status, method
        self._tokens[method["id"]] = token
        return await self._send("POST", f"/v1/payment_methods/{method['id']}/attach", form, auth)

    async def _set_up(self, form: Form, auth: dict[str, str]) -> Answer:
        """Made and confirmed in one call, as the real one takes it."""
        bare = {name: form[name] for name in ("customer", "usage")}
        status, setup = await self._send("POST", "/v1/setup_intents", bare, auth)
        if status != 200:
            return status, setup
        path = f"/v1/setup_intents/{setup['id']}/confirm"
        method = {"payment_method": form["payment_method"]}
        status, setup = await self._send("POST", path, method, auth)
        if status == 200 and setup["status"] == "requires_action" and "return_url" in form:
            setup["next_action"] = _redirect(setup["id"])
        return status, setup

    async def _create(self, form: Form, auth: dict[str, str]) -> Answer:
        off_session = form.get("off_session") == "true"
        status, intent = await self._send("POST", "/v1/payment_intents", form, auth)
        if status != 200:
            return status, intent
        self._intents[form["metadata[perennial_key]"]] = intent["id"]
        path = f"/v1/payment_intents/{intent['id']}"
        status, confirmed = await self._send("POST", f"{path}/confirm", {}, auth)
        _, intent = await self._send("GET", path, {}, auth)
        code = CARDS[self._tokens[form["payment_method"]]][1]
        if status == 402:
            self._errors[intent["id"]] = {"code": "card_declined", "decline_code": str(code)}
        elif intent["status"] == "requires_action" and off_session:
            self._errors[intent["id"]] = {"code": "authentication_required"}
        elif status != 200:
            return status, confirmed
        intent = self._seen(intent)
        if intent["status"] == "requires_action" and "return_url" in form:
            intent["next_action"] = _redirect(intent["id"])
        if error := self._errors.get(intent["id"]):
            shaped = {"type": "card_error", "message": "Declined.", "payment_intent": intent}
            return 402, {"error": {**shaped, **error}}
        return 200, intent

    async def _refund(self, form: Form, auth: dict[str, str]) -> Answer:
        intent = form["payment_intent"]
        _, found = await self._send("GET", f"/v1/payment_intents/{intent}", {}, auth)
        received = self._seen(found)["amount_received"]
        if self._refunded.get(intent, 0) + int(form["amount"]) > received:
            return 400, _error("invalid_request_error", "charge_already_refunded")
        status, refund = await self._send("POST", "/v1/refunds", form, auth)
        if status == 200:
            self._refunded[intent] = self._refunded.get(intent, 0) + int(form["amount"])
        return status, refund

    async def _plain(
        self, method: str, path: str, query: Form, form: Form, auth: dict[str, str]
    ) -> Answer:
        if path == "/v1/payment_intents/search":
            key = query["query"].split(":'")[1].rstrip("'")
            if key not in self._intents:
                return 200, {"object": "search_result", "data": [], "has_more": False}
            found = f"/v1/payment_intents/{self._intents[key]}"
            _, intent = await self._send("GET", found, {}, auth)
            data = [self._seen(intent)]
            return 200, {"object": "search_result", "data": data, "has_more": False}
        if path == "/v1/refunds" and method == "GET":
            wanted = query.pop("payment_intent", None)
            status, answer = await self._send("GET", path, {}, auth)
            data = [r for r in answer["data"] if wanted in {None, r.get("payment_intent")}]
            data = [r | {"status": "failed"} if r["id"] in self._came_back else r for r in data]
            return status, {**answer, "data": data, "has_more": False}
        if listed := re.fullmatch(r"/v1/(disputes|payouts)(?:/(\w+))?", path):
            return self._ours(listed[1], listed[2])
        status, answer = await self._send(method, path, {**query, **form}, auth)
        return status, self._seen(answer)

    def _ours(self, kind: str, name: str | None) -> Answer:
        made = self._made[kind]
        if name is None:
            return 200, {"object": "list", "data": [*made.values()], "has_more": False}
        if name not in made:
            return 404, _error("invalid_request_error", "resource_missing")
        return 200, made[name]

    async def _happen(self, path: str, auth: dict[str, str]) -> Any:
        """What nobody asks Stripe for: a bank's doing, or Stripe's own."""
        match path.split("/")[2:]:
            case ["dispute", intent_id]:
                _, intent = await self._send("GET", f"/v1/payment_intents/{intent_id}", {}, auth)
                line = {"object": "balance_transaction", "fee": FEE_OF_A_DISPUTE}
                return self._make(
                    "disputes",
                    "dp",
                    amount=intent["amount"],
                    currency=intent["currency"],
                    payment_intent=self._seen(intent),
                    balance_transactions=[line | {"currency": intent["currency"]}],
                    reason="fraudulent",
                    status="needs_response",
                )
            case ["close", dispute_id, status]:
                self._made["disputes"][dispute_id]["status"] = status
                return self._made["disputes"][dispute_id]
            case ["payout"]:
                return self._make("payouts", "po", amount=5000, currency="eur", status="paid")
            case ["fail", payout_id] if payout_id in self._made["payouts"]:
                self._made["payouts"][payout_id]["status"] = "failed"
                return self._made["payouts"][payout_id]
            case ["fail", refund_id]:
                self._came_back.add(refund_id)
                return {"id": refund_id}
            case _:
                raise ValueError(path)

    def _make(self, kind: str, prefix: str, **given: Any) -> dict[str, Any]:
        name = f"{prefix}_shim{len(self._made[kind])}"
        made = {"id": name, "object": kind.removesuffix("s"), "created": int(time.time()), **given}
        self._made[kind][name] = made
        return made

    async def _send(self, method: str, path: str, form: Form, auth: dict[str, str]) -> Answer:
        given = {name: value for name, value in form.items() if not NOT_TAKEN.match(name)}
        sent: dict[str, Any] = {"params": given} if method == "GET" else {"data": given}
        answer = await self._http.request(method, path, headers=auth, **sent)
        return answer.status_code, answer.json()

    def _seen(self, thing: Any) -> Any:
        """An intent (or a list of them) with what localstripe leaves out."""
        if isinstance(thing, dict) and thing.get("object") == "list":
            return {**thing, "data": [self._seen(part) for part in thing["data"]]}
        if not isinstance(thing, dict) or thing.get("object") != "payment_intent":
            return thing
        full = thing["amount"] if thing["status"] == "succeeded" else 0
        received = self._received.get(thing["id"], full)
        error = self._errors.get(thing["id"]) or thing.get("last_payment_error")
        status = thing["status"]
        if error and status == "requires_action":
            # Off session nobody is there: the real one waits for a method, confirmed by the payer.
            status = "requires_payment_method"
        fee = (received * 15 + 500) // 1000 + 25 if received else 0
        charge = thing.get("latest_charge")
        if isinstance(charge, dict) and received:
            entry = {"object": "balance_transaction", "fee": fee, "currency": thing["currency"]}
            charge = {**charge, "balance_transaction": entry}
        return {**thing, "status": status, "amount_received": received, "latest_charge": charge} | {
            "last_payment_error": error,
            "amount_capturable": thing["amount"] if status == "requires_capture" else 0,
        }


def _redirect(name: str) -> dict[str, Any]:
    url = f"https://hooks.stripe.example/{name}"
    return {"type": "redirect_to_url", "redirect_to_url": {"url": url}}


def _error(kind: str, code: str) -> dict[str, Any]:
    return {"error": {"type": kind, "code": code, "message": code}}


def _response(answer: Answer, headers: dict[str, str] | None = None) -> Response:
    status, body = answer
    more = {"Request-Id": "req_shim", **(headers or {})}
    return Response(json.dumps(body), status, more, media_type="application/json")


@contextmanager
def stripe_like(python: Path) -> Iterator[str]:
    """Localstripe (in the interpreter `python`) behind the shim; yields the address."""
    upstream, own = free_port(), free_port()
    processes = [
        subprocess.Popen([str(python), "-c", RUNNER, str(upstream)]),
        subprocess.Popen([sys.executable, "-m", __name__, str(own), str(upstream)]),
    ]
    try:
        _wait_for(upstream)
        _wait_for(own)
        yield f"http://127.0.0.1:{own}"
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("localstripe or its shim does not answer")


def main() -> None:
    shim = Shim(f"http://127.0.0.1:{sys.argv[2]}")
    app = Starlette(routes=[Route("/{path:path}", shim.handle, methods=["GET", "POST", "DELETE"])])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
