"""Whatever is asked of any operation, nothing breaks, and every answer is one that is declared."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SERVICES, deployed
from tests.furnished import House, furnished
from tests.fuzz.front import Front, with_known_ids
from tests.payments.servers import SECRET, sandbox_process
from tests.servers import Servers
from tests.tokens import TokenIssuer
from tests.tools import tool_environment

#: For each caller, by `make fuzz`; otherwise each operation once or twice, and the same each time.
SECONDS = os.environ.get("FUZZ_SECONDS")
HOW_LONG = (
    [f"--max-time={SECONDS}", "--max-examples=50"] if SECONDS else ["--max-examples=1", "--seed=1"]
)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
#: Fewer operations let in would say that only the door was tried.
LET_IN = 30
#: These end the caller that asks: nothing would be let in any more.
ENDS = {"/v1/me": "delete", "/v1/accounts/{account_id}": "delete"}


@dataclass
class Fuzzed:
    """All services, furnished, at one address."""

    url: str
    front: Front
    house: House
    owned: dict[str, str]


@pytest.fixture(scope="module")
async def fuzzed(
    servers: Servers, issuer: TokenIssuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fuzzed]:
    """On a database of its own: what is changed here by chance, no other test should meet."""
    folder = tmp_path_factory.mktemp("fuzz")
    front, houses = Front(), dict[str, House]()
    async with AsyncExitStack() as stack:
        deployment = await stack.enter_async_context(deployed(servers))
        sandbox = stack.enter_context(sandbox_process(folder, hang_seconds=0))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PERENNIAL_SANDBOX_URL", sandbox.url)
        patch.setenv("PERENNIAL_SANDBOX_WEBHOOK_SECRET", SECRET)
        url = await stack.enter_async_context(front.served())
        for name in SERVICES:
            more = {"invoicing_url": url} if name == "subscriptions" else {}
            house = await stack.enter_async_context(
                furnished(name, deployment, issuer, folder, like=houses.get("auth"), **more)
            )
            houses[name], front.apps[name] = house, house.app
        owned = {key: known for house in houses.values() for key, known in house.owned.items()}
        yield Fuzzed(url, front, houses["auth"], owned)


def interface() -> dict[str, Any]:
    """What is declared of all services."""
    document: dict[str, Any] = json.loads(Path("docs/openapi.json").read_text())
    return document


@pytest.mark.parametrize("caller", ["staff", "customer"])
async def test_nothing_that_is_asked_breaks_anything(
    fuzzed: Fuzzed, caller: str, tmp_path: Path
) -> None:
    tool = tool_environment("schemathesis")
    house = fuzzed.house
    document = interface()
    for path, method in ENDS.items():
        del document["paths"][path][method]
    written = tmp_path / "openapi.json"
    written.write_text(json.dumps(with_known_ids(document, fuzzed.owned)))
    headers = house.person("owner") if caller == "customer" else house.staff | house.for_mine

    run = await asyncio.create_subprocess_exec(
        str(tool / "bin/st"),
        "run",
        str(written),
        f"--url={fuzzed.url}",
        *(f"--header={name}:{value}" for name, value in headers.items()),
        f"--checks={','.join(CHECKS)}",
        "--phases=fuzzing",
        *HOW_LONG,
        "--continue-on-failure",
        "--no-shrink",
        "--generation-database=none",
        "--no-color",
        "--warnings=off",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await run.communicate())[0].decode()

    faults, fuzzed.front.faults = fuzzed.front.faults, set()
    answers, fuzzed.front.answers = fuzzed.front.answers, {}
    assert not faults, "\n".join(sorted(faults))
    assert run.returncode == 0, said
    asked_for = {
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    }
    assert asked_for <= set(answers)
    let_in = [counts for counts in answers.values() if any(status < 400 for status in counts)]
    assert len(let_in) > LET_IN
