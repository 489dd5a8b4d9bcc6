"""The gateway in front of stand-in services: a real nginx, real sockets, every promise once."""

import asyncio
import gzip
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from infra.gateway.render import SERVICES, Gateway

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class StandIn:
    """A service that tells what reached it, and misbehaves when the query asks it to."""

    name: str
    port: int = 0
    ready: bool = True
    seen: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def answer(self, request: Request) -> Response:
        self.seen.append(f"{request.method} {request.url.path}")
        if request.url.path == "/health/ready":
            return JSONResponse({}, 200 if self.ready else 503)
        query = request.query_params
        body = await request.body()
        await asyncio.sleep(float(query.get("delay", "0")))
        if "refuse" in query or request.headers.get("Authorization") == "Bearer refused":
            status = int(query.get("refuse", "401"))
            return JSONResponse(
                {"code": "its-own", "status": status},
                status,
                media_type="application/problem+json",
                headers={"Retry-After": "7"},
            )
        return JSONResponse(
            {
                "service": self.name,
                "method": request.method,
                "path": request.url.path,
                "headers": dict(request.headers),
                "size": len(body),
                "padding": "x" * int(query.get("padding", "0")),
            },
            headers={
                "X-Powered-By": "a stand-in",
                "X-Request-ID": "of-the-service",
                "ETag": '"3"',
            },
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["StandIn"]:
        app = Starlette()
        app.router.default = self._asgi
        listening = socket.socket()
        listening.bind(("127.0.0.1", self.port))
        listening.listen()
        self.port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        task = asyncio.create_task(server._serve([listening]))
        try:
            yield self  # the socket listens already: nobody needs to wait
        finally:
            server.should_exit = True
            await task
            listening.close()

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        response = await self.answer(Request(scope, receive))
        await response(scope, receive, send)


@dataclass
class Closing:
    """A replica that takes a request and closes the connection without a word."""

    port: int = 0
    taken: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Closing"]:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            self.taken += 1
            writer.close()

        server = await asyncio.start_server(take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(run_dir: Path, configuration: str) -> "subprocess.Popen[bytes]":
    path = run_dir / "nginx.conf"
    path.write_text(configuration)
    return subprocess.Popen(
        [str(NGINX), "-c", path, "-e", run_dir / "error.log", "-g", "daemon off;"],
        stdin=subprocess.DEVNULL,
    )


def until_it_listens(process: "subprocess.Popen[bytes]", listen: str) -> None:
    host, _, port = listen.partition(":")
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert process.poll() is None, "nginx did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        else:
            return


@asynccontextmanager
async def nginx(
    run_dir: Path,
    upstreams: Mapping[str, list[str]],
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway of its own, and a client that talks to it."""
    await asyncio.to_thread(run_dir.mkdir)
    listen = f"127.0.0.1:{free_port()}"
    gateway = Gateway(run_dir, listen, upstreams, {"WORKERS": "1", **(settings or {})})
    process = start(run_dir, gateway.render())
    try:
        await asyncio.to_thread(until_it_listens, process, listen)
        async with httpx.AsyncClient(base_url=f"http://{listen}", timeout=20) as client:
            yield client
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
async def services() -> AsyncIterator[dict[str, StandIn]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(StandIn(name).serving()) for name in SERVICES}


def addresses(services: Mapping[str, StandIn]) -> dict[str, list[str]]:
    return {name: [service.address] for name, service in services.items()}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Where the workers, which have no rights of their own, can reach it.
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
async def client(services: dict[str, StandIn], run_dir: Path) -> AsyncIterator[httpx.AsyncClient]:
    generous = {
        "ADDRESS_RATE": "5000r/s",
        "CREDENTIALS_RATE": "5000r/s",
        "API_TIMEOUT": "1s",
        "SLOW_TIMEOUT": "10s",
    }
    async with nginx(run_dir / "main", addresses(services), generous) as client:
        yield client


def a_token(name: str) -> str:
    return f"Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.{name:_>86}"


# ---- routes ---------------------------------------------------------------------------------

ROUTES = {
    "auth": """
        /.well-known/jwks.json /v1/auth/login /v1/auth/logout /v1/auth/password/forgot
        /v1/me /v1/me/mfa/totp/confirm /v1/me/export /v1/accounts/1/members /v1/projects
        /v1/admin/audit-log
    """,
    "subscriptions": """
        /v1/plans /v1/products /v1/prices/1 /v1/addons /v1/bundles /v1/coupons /v1/meters
        /v1/features /v1/subscriptions/1/timeline /v1/usage-events/batch /v1/usage
        /v1/entitlements/seats /v1/token-balance/debit /v1/test-clocks/1/advance
        /v1/invoices/upcoming
    """,
    "invoicing": """
        /v1/invoices /v1/invoices/preview /v1/invoices/upcoming/x /v1/invoices/1/pdf
        /v1/credit-notes /v1/tax-rates /v1/exchange-rates /v1/legal-entities
        /v1/attachments/1/complete /v1/billing-details /v1/exports/1
    """,
    "payments": """
        /v1/payment-methods/1/default /v1/payments/1/refunds /v1/webhooks/sandbox
        /v1/ledger/balances /v1/reconciliation
    """,
}
NOT_EXPOSED = """
    / /metrics /health/ready /health/auth /v1 /v1/planning /v1/plansx/1 /v1/ops /v1/ops/auth
    /v1/ops/unknown/outbox /v1/internal /internal/x /openapi.json /openapi/unknown.json /docs
    /.problem/404 /.health/auth /.stuck/auth /v1/webhooks /v1/webhooks/a/b /.well-known/other
"""
DEVIOUS = """
    /v1/plans/../../metrics /v1/plans/%2e%2e/%2e%2e/metrics /v1/plans/..%2f..%2fmetrics
    /metrics/../v1/plans /v1/plans/%252e%252e/metrics /v1//plans /v1/plans/%5c..%5cx
"""


@pytest.mark.parametrize(
    ("service", "path"),
    [(service, path) for service, paths in ROUTES.items() for path in paths.split()]
    + [(service, f"/v1/ops/{service}/outbox") for service in SERVICES]
    + [(service, f"/openapi/{service}.json") for service in SERVICES],
)
async def test_a_listed_path_reaches_its_service(
    client: httpx.AsyncClient, service: str, path: str
) -> None:
    answer = (await client.get(path)).json()

    assert (answer["service"], answer["path"]) == (service, path)


async def test_every_documented_operation_reaches_the_service_that_documents_it(
    client: httpx.AsyncClient,
) -> None:
    documents = Path(__file__).parents[1] / "contracts" / "openapi"
    elsewhere = []
    for service in SERVICES:
        paths = json.loads((documents / f"{service}.json").read_text())["paths"]
        for path, operations in paths.items():
            for method in operations:
                url = re.sub(r"\{.*?\}", "sandbox", path)
                reached = (await client.request(method, url)).json().get("service")
                if reached != service:
                    elsewhere.append(f"{method} {path}: {reached}, not {service}")

    assert not elsewhere


@pytest.mark.parametrize("path", NOT_EXPOSED.split())
async def test_nothing_else_is_exposed(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert_problem(answer, 404, "not-found")


@pytest.mark.parametrize("path", DEVIOUS.split())
async def test_a_path_that_reads_differently_after_decoding_is_refused(
    client: httpx.AsyncClient, services: dict[str, StandIn], path: str
) -> None:
    services["subscriptions"].seen.clear()

    status, _headers, body = await raw(client, f"GET {path} HTTP/1.1")

    assert status == 404
    assert json.loads(body)["code"] == "not-found"
    assert services["subscriptions"].seen == []


# ---- where a request comes from -------------------------------------------------------------


async def test_a_request_id_and_a_trace_are_made(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/plans")

    sent = answer.json()["headers"]
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])
    assert sent["x-request-id"] == answer.headers["X-Request-ID"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", answer.headers["traceparent"])
    assert sent["traceparent"] == answer.headers["traceparent"]
    assert answer.headers.get_list("X-Request-ID") == [answer.headers["X-Request-ID"]]


async def test_good_ones_are_kept(client: httpx.AsyncClient) -> None:
    given = {"X-Request-ID": "order-4711-b", "traceparent": TRACE, "tracestate": "vendor=1"}

    answer = await client.get("/v1/plans", headers=given)

    sent = answer.json()["headers"]
    assert answer.headers["X-Request-ID"] == sent["x-request-id"] == "order-4711-b"
    assert answer.headers["traceparent"] == sent["traceparent"] == TRACE
    assert sent["tracestate"] == "vendor=1"


@pytest.mark.parametrize(
    "given",
    [
        {"X-Request-ID": 'x","status":200,"y":"'},
        {"X-Request-ID": "short"},
        {"X-Request-ID": "x" * 129},
        {"traceparent": TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)},
        {"traceparent": TRACE.upper(), "tracestate": "vendor=1"},
        {"traceparent": "not a trace", "tracestate": "vendor=1"},
    ],
)
async def test_bad_ones_are_replaced(client: httpx.AsyncClient, given: dict[str, str]) -> None:
    answer = await client.get("/v1/plans", headers=given)

    sent = answer.json()["headers"]
    for name, value in given.items():
        assert sent.get(name.lower()) != value


async def test_a_client_cannot_say_where_it_comes_from(client: httpx.AsyncClient) -> None:
    spoofed = {"X-Forwarded-For": "10.0.0.1", "X-Real-IP": "10.0.0.1", "Forwarded": "for=10.0.0.1"}

    sent = (await client.get("/v1/plans", headers=spoofed)).json()["headers"]

    assert sent["x-forwarded-for"] == sent["x-real-ip"] == "127.0.0.1"
    assert "forwarded" not in sent


async def test_a_load_balancer_may_if_it_is_trusted(
    services: dict[str, StandIn], run_dir: Path
) -> None:
    trusted = {"TRUSTED_PROXY": "127.0.0.0/8"}
    async with nginx(run_dir / "trusted", addresses(services), trusted) as client:
        given = {"X-Forwarded-For": "10.6.6.6, 203.0.113.9"}
        sent = (await client.get("/v1/plans", headers=given)).json()["headers"]

    assert sent["x-forwarded-for"] == "203.0.113.9"


async def test_a_weak_etag_made_by_compression_comes_back_strong(
    client: httpx.AsyncClient,
) -> None:
    read = await client.get("/v1/plans?padding=4000")
    sent = (await client.patch("/v1/plans/1", headers={"If-Match": read.headers["ETag"]})).json()

    assert read.headers["ETag"] == 'W/"3"'
    assert sent["headers"]["if-match"] == '"3"'


# ---- errors ---------------------------------------------------------------------------------


def assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert list(problem) == [
        *("type", "title", "status", "detail", "instance", "code", "request_id")
    ]
    assert problem["instance"].startswith("/")
    assert problem["type"] == f"urn:perennial:problem:{code}"
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert problem["detail"].endswith(".")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def raw(client: httpx.AsyncClient, head: str) -> tuple[int, str, bytes]:
    """One request byte for byte: a client library would tidy it up."""
    port = client.base_url.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    headers, _, body = answer.partition(b"\r\n\r\n")
    return int(headers.split()[1]), headers.decode(), body


async def test_a_services_own_problem_passes_untouched(client: httpx.AsyncClient) -> None:
    for status in (401, 404, 409, 413, 422, 429, 500, 502, 503):
        answer = await client.get(f"/v1/plans?refuse={status}")

        assert answer.status_code == status
        assert answer.json() == {"code": "its-own", "status": status}
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers.get_list("Retry-After") == ["7"]


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/auth/login", 16 << 10),
        ("/v1/plans", 256 << 10),
        ("/v1/webhooks/sandbox", 1 << 20),
        ("/v1/usage-events/batch", 2 << 20),
        ("/v1/attachments/1/content", 25 << 20),
    ],
)
async def test_a_path_takes_bodies_up_to_its_limit(
    client: httpx.AsyncClient, path: str, limit: int
) -> None:
    fits = await client.post(path, content=b"x" * limit)
    too_large = await client.post(path, content=b"x" * (limit + 1))

    assert fits.json()["size"] == limit
    assert_problem(too_large, 413, "body-too-large")


async def test_a_path_waits_as_long_as_its_limit(client: httpx.AsyncClient) -> None:
    impatient = await client.get("/v1/plans?delay=3")
    patient = await client.get("/v1/payments?delay=1.5")

    assert_problem(impatient, 504, "gateway-timeout")
    assert patient.status_code == 200


async def test_a_service_that_is_away_is_a_problem(run_dir: Path) -> None:
    nobody = {name: [f"127.0.0.1:{free_port()}"] for name in SERVICES}
    async with nginx(run_dir / "away", nobody) as client:
        answer = await client.post("/v1/subscriptions", json={})

        assert_problem(answer, 502, "bad-gateway")
        assert answer.headers["Retry-After"] == "2"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /v1/plans HTTP/1.1\r\nBroken header", 400),
        ("GET /v1/plans HTTP/1.1\r\nX-Large: " + "x" * 20_000, 431),
        ("GET /v1/plans?" + "x" * 20_000 + " HTTP/1.1", 414),
        ("TRACE /v1/plans HTTP/1.1", 405),
    ],
)
async def test_what_nginx_itself_refuses_is_a_problem(
    client: httpx.AsyncClient, head: str, status: int
) -> None:
    got, headers, body = await raw(client, head)

    assert got == status
    assert "application/problem+json" in headers
    assert json.loads(body)["status"] == status


# ---- retries --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_an_idempotent_request_goes_to_another_replica(
    services: dict[str, StandIn], run_dir: Path, method: str
) -> None:
    async with Closing().serving() as broken:
        upstreams = addresses(services)
        upstreams["subscriptions"] = [broken.address, services["subscriptions"].address]
        async with nginx(run_dir / f"retry-{method}", upstreams) as client:
            answers = [await client.request(method, "/v1/plans/1") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert broken.taken > 0


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_any_other_is_never_sent_twice(
    services: dict[str, StandIn], run_dir: Path, method: str
) -> None:
    service = services["subscriptions"]
    async with Closing().serving() as broken:
        upstreams = addresses(services)
        upstreams["subscriptions"] = [broken.address, service.address]
        async with nginx(run_dir / f"once-{method}", upstreams) as client:
            service.seen.clear()
            answers = [await client.request(method, "/v1/plans/1", json={}) for _ in range(2)]

    assert sorted(answer.status_code for answer in answers) == [200, 502]
    assert broken.taken + len(service.seen) == 2


async def test_a_replica_that_is_gone_is_passed_over_by_every_method(
    services: dict[str, StandIn], run_dir: Path
) -> None:
    upstreams = addresses(services)
    upstreams["subscriptions"] = [
        f"127.0.0.1:{free_port()}",
        services["subscriptions"].address,
    ]
    async with nginx(run_dir / "gone", upstreams) as client:
        answers = [await client.post("/v1/subscriptions", json={}) for _ in range(6)]

    assert {answer.status_code for answer in answers} == {200}


# ---- limits ---------------------------------------------------------------------------------


async def test_each_token_has_its_own_limit(services: dict[str, StandIn], run_dir: Path) -> None:
    tight = {"TOKEN_RATE": "1r/s", "TOKEN_BURST": "4"}
    async with nginx(run_dir / "token", addresses(services), tight) as client:

        async def ask(token: str, times: int) -> list[httpx.Response]:
            headers = {"Authorization": a_token(token)}
            return [await client.get("/v1/plans", headers=headers) for _ in range(times)]

        alice = await ask("alice", 10)
        bob = await ask("bob", 3)
        other_header_same_token = await client.get(
            "/v1/plans", headers={"Authorization": f"Bearer  x.y.{'alice':_>86}"}
        )

    refused = [answer for answer in alice if answer.status_code == 429]
    assert len(refused) == 5
    assert {answer.status_code for answer in bob} == {200}
    assert other_header_same_token.status_code == 429
    assert_problem(refused[0], 429, "too-many-requests")
    assert refused[0].headers["Retry-After"] == "1"
    assert "RateLimit" in refused[0].headers
    assert "RateLimit-Policy" in refused[0].headers


async def test_made_up_tokens_do_not_get_around_the_limit_per_address(
    services: dict[str, StandIn], run_dir: Path
) -> None:
    tight = {"ADDRESS_RATE": "1r/s", "ADDRESS_BURST": "10"}
    async with nginx(run_dir / "address", addresses(services), tight) as client:
        statuses = [
            (await client.get("/v1/plans", headers={"Authorization": a_token(f"t{number}")}))
            .status_code
            for number in range(20)
        ]  # fmt: skip

    assert statuses.count(429) >= 8


async def test_credentials_are_limited_more_tightly(
    services: dict[str, StandIn], run_dir: Path
) -> None:
    tight = {"CREDENTIALS_RATE": "1r/s", "CREDENTIALS_BURST": "2"}
    async with nginx(run_dir / "credentials", addresses(services), tight) as client:
        logins = [(await client.post("/v1/auth/login", json={})).status_code for _ in range(6)]
        other = await client.get("/v1/me")

    assert logins == [200, 200, 200, 429, 429, 429]
    assert other.status_code == 200


# ---- health and what is stuck ---------------------------------------------------------------


async def test_health_shows_all_four(
    client: httpx.AsyncClient, services: dict[str, StandIn]
) -> None:
    well = await client.get("/health")
    services["invoicing"].ready = False
    try:
        ill = await client.get("/health")
    finally:
        services["invoicing"].ready = True

    assert (well.status_code, well.headers["Content-Type"]) == (200, "application/json")
    assert well.json() == {"status": "ready", "services": dict.fromkeys(SERVICES, "ready")}
    assert ill.status_code == 503
    assert ill.json()["status"] == "not-ready"
    assert ill.json()["services"] == {
        **dict.fromkeys(SERVICES, "ready"),
        "invoicing": "not-ready",
    }


async def test_health_tells_a_service_that_is_away(
    services: dict[str, StandIn], run_dir: Path
) -> None:
    upstreams = addresses(services)
    upstreams["auth"] = upstreams["payments"] = [f"127.0.0.1:{free_port()}"]
    async with nginx(run_dir / "ill", upstreams) as client:
        answer = await client.get("/health")
        live = await client.get("/health/live")

    assert answer.status_code == 503
    assert answer.json()["services"] == {
        "auth": "unreachable",
        "subscriptions": "ready",
        "invoicing": "ready",
        "payments": "unreachable",
    }
    assert live.status_code == 200


async def test_health_is_limited_like_any_path(services: dict[str, StandIn], run_dir: Path) -> None:
    tight = {"ADDRESS_RATE": "1r/s", "ADDRESS_BURST": "2"}
    async with nginx(run_dir / "health", addresses(services), tight) as client:
        answers = [await client.get("/health") for _ in range(6)]

    assert_problem(answers[-1], 429, "too-many-requests")


async def test_what_is_stuck_is_asked_of_all_four(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/ops/stuck", headers={"Authorization": a_token("staff")})

    parts = answer.json()["data"]
    assert answer.status_code == 200
    assert [part["service"] for part in parts] == list(SERVICES)
    for part in parts:
        assert part["stuck"]["path"] == f"/v1/ops/{part['service']}/stuck"
        assert part["stuck"]["headers"]["authorization"] == a_token("staff")


async def test_what_is_stuck_takes_no_parameters_and_says_so_to_those_who_may_ask(
    client: httpx.AsyncClient,
) -> None:
    staff, nobody = {"Authorization": a_token("staff")}, {"Authorization": "Bearer refused"}

    assert_problem(
        await client.get("/v1/ops/stuck?limit=5", headers=staff), 422, "validation-failed"
    )
    assert_problem(
        await client.get("/v1/ops/stuck?limit=5", headers=nobody), 401, "unauthenticated"
    )


async def test_a_slash_too_many_is_passed_on_and_leads_nowhere_else(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/v1/plans/", "/v1/ops/auth/outbox/", "/health/"):
        answer = await client.get(path, headers={"Host": "evil.example"})

        assert "location" not in answer.headers
        assert answer.status_code in {200, 404}  # what the service says; here a stand-in


async def test_what_is_stuck_is_not_for_everybody(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/ops/stuck", headers={"Authorization": "Bearer refused"})

    assert_problem(answer, 401, "unauthenticated")


async def test_what_is_stuck_names_the_service_that_is_away(
    services: dict[str, StandIn], run_dir: Path
) -> None:
    upstreams = addresses(services)
    upstreams["invoicing"] = [f"127.0.0.1:{free_port()}"]
    async with nginx(run_dir / "stuck", upstreams) as client:
        parts = (await client.get("/v1/ops/stuck")).json()["data"]

    assert [part["stuck"].get("code") for part in parts] == [None, None, "bad-gateway", None]


# ---- answers --------------------------------------------------------------------------------


async def test_answers_carry_the_security_headers_once(client: httpx.AsyncClient) -> None:
    for path in ("/v1/plans", "/nothing", "/health", "/v1/plans?refuse=404"):
        headers = (await client.get(path)).headers

        assert headers.get_list("X-Content-Type-Options") == ["nosniff"]
        assert headers.get_list("X-Frame-Options") == ["DENY"]
        assert headers.get_list("Cache-Control") == ["no-store"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Strict-Transport-Security"].startswith("max-age=")
        assert headers["Server"] == "nginx"
        assert "X-Powered-By" not in headers


async def test_large_answers_are_compressed(client: httpx.AsyncClient) -> None:
    async with client.stream(
        "GET", "/v1/plans?padding=20000", headers={"Accept-Encoding": "gzip"}
    ) as answer:
        wire = b"".join([chunk async for chunk in answer.aiter_raw()])

    assert answer.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert len(wire) < 2000
    assert len(json.loads(gzip.decompress(wire))["padding"]) == 20000


def a_line_of(log: Path, word: str) -> str:
    return next(line for line in log.read_text().splitlines() if word in line)


async def test_the_log_has_the_request_id_and_no_secret(
    client: httpx.AsyncClient, run_dir: Path
) -> None:
    secret = a_token("secret")
    await client.get(
        "/v1/invoices?q=Some+Name",
        headers={"Authorization": secret, "X-Request-ID": "look-for-me"},
    )

    await client.get("/health/live")  # one worker: it has written the line before by now
    line = a_line_of(run_dir / "main" / "access.log", "look-for-me")
    entry = json.loads(line)
    assert (entry["path"], entry["status"]) == ("/v1/invoices", 200)
    assert "secret" not in line
    assert "Some" not in line


# ---- the recipe itself ----------------------------------------------------------------------


def test_a_service_without_an_address_is_named(tmp_path: Path) -> None:
    gateway = Gateway(run_dir=tmp_path, listen="127.0.0.1:1", upstreams={"auth": ["127.0.0.1:2"]})

    with pytest.raises(ValueError, match="no address for subscriptions"):
        gateway.render()


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    gateway = Gateway(
        run_dir=tmp_path,
        listen="127.0.0.1:1",
        upstreams={name: ["127.0.0.1:2"] for name in SERVICES},
        settings={"TOKEN_RAET": "1r/s"},
    )

    with pytest.raises(ValueError, match="TOKEN_RAET"):
        gateway.render()
