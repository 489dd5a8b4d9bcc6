"""The object store: a folder, and a bucket on a real S3 server that refuses like S3."""

import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import obstore
import pytest
from pydantic import SecretStr

from services.invoicing.schedule import clear_attachments
from services.invoicing.settings import InvoicingSettings
from services.invoicing.storage import ObjectStore, TooLarge
from services.invoicing.tables import attachments
from shared.clock import utc_now
from shared.schedule import Due
from tests.conftest import service_named
from tests.harness import Deployment, Running, running
from tests.invoicing.conftest import NewAccount, body
from tests.invoicing.swift import BUCKET, KEY_ID, SECRET, Bucket, swift
from tests.invoicing.test_documents import a_file
from tests.tokens import TokenIssuer
from tests.tools import tool_environment

#: The first test may install the server.
needs_swift = [pytest.mark.servers, pytest.mark.timeout(420)]


def in_bucket(endpoint: str, **more: Any) -> dict[str, Any]:
    return {
        "object_store_url": f"s3://{BUCKET}/tenant",
        "s3_endpoint": endpoint,
        "s3_access_key_id": KEY_ID,
        "s3_secret_access_key": SecretStr(SECRET),
        **more,
    }


def a_store(**fields: Any) -> ObjectStore:
    return ObjectStore(
        InvoicingSettings(
            database_url=SecretStr("postgresql://invoicing@127.0.0.1/perennial"),
            broker_url=SecretStr("amqp://127.0.0.1"),
            redis_url=SecretStr("redis://127.0.0.1"),
            **fields,
        )
    )


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with swift(tool_environment("swift"), tmp_path_factory.mktemp("swift")) as started:
        yield started


@pytest.fixture(params=["folder", pytest.param("bucket", marks=needs_swift)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return a_store(object_store_url=str(tmp_path / "objects"))
    return a_store(**in_bucket(request.getfixturevalue("bucket").endpoint))


async def test_what_is_put_is_got_and_deleting_twice_is_once(
    store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    key = f"{request.node.name}/ü.pdf"

    await store.put(key, b"one", content_type="text/plain")
    await store.put(key, b"one", content_type="text/plain")

    assert await store.get(key) == b"one"
    await store.delete(key)
    await store.delete(key)
    with pytest.raises(FileNotFoundError):
        await store.get(key)


async def test_what_a_power_failure_cut_off_is_written_anew(
    store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    key = f"{request.node.name}/a"
    await obstore.put_async(store._store, key, b"on")

    await store.put(key, b"one", content_type="text/plain")

    assert await store.get(key) == b"one"


async def test_more_than_is_wanted_is_not_read(
    store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    key = f"{request.node.name}/a"
    await store.put(key, b"seven b", content_type="text/plain")

    assert await store.get(key, at_most=7) == b"seven b"
    with pytest.raises(TooLarge) as refused:
        await store.get(key, at_most=6)
    assert refused.value.size == 7


async def test_what_is_older_is_removed_under_its_prefix_alone(
    store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    for key in (f"{name}/uploads/a/b", f"{name}/documents/c"):
        await store.put(key, b"x", content_type="text/plain")

    early = await store.delete_older(f"{name}/uploads", utc_now() - timedelta(hours=1))
    late = await store.delete_older(f"{name}/uploads", utc_now() + timedelta(hours=1))

    assert (early, late) == (0, 1)
    assert await store.get(f"{name}/documents/c") == b"x"


async def test_a_folder_signs_no_links(tmp_path: Path) -> None:
    assert await a_store(object_store_url=str(tmp_path)).presign("GET", "a/b") is None


async def test_links_carry_the_name_by_which_clients_know_the_bucket() -> None:
    fields = in_bucket("http://s3.internal:9000", s3_public_endpoint="https://files.example.com")

    link = await a_store(**fields).presign("GET", "a/b")

    assert link is not None
    assert link.startswith(f"https://files.example.com/{BUCKET}/tenant/a/b?")
    assert SECRET not in link


# ---- a bucket: what S3 itself refuses


class TestBucket:
    pytestmark = needs_swift

    @pytest.fixture
    def store(self, bucket: Bucket) -> ObjectStore:
        return a_store(**in_bucket(bucket.endpoint))

    @staticmethod
    async def link(store: ObjectStore, method: str, key: str, seconds: int = 60) -> str:
        made = await store.presign(method, key, seconds)
        assert made is not None
        return made

    async def test_a_link_puts_and_a_link_gets(self, store: ObjectStore) -> None:
        async with httpx.AsyncClient() as http:
            put = await http.put(await self.link(store, "PUT", "links/a"), content=b"hello")
            got = await http.get(await self.link(store, "GET", "links/a"))

        assert (put.status_code, got.content) == (200, b"hello")
        assert await store.get("links/a") == b"hello"

    async def test_a_link_is_for_one_method_one_object_and_as_it_was_signed(
        self, store: ObjectStore
    ) -> None:
        await store.put("links/b", b"hello", content_type="text/plain")
        link = await self.link(store, "GET", "links/b")
        signature = parse_qs(urlsplit(link).query)["X-Amz-Signature"][0]
        async with httpx.AsyncClient() as http:
            answers = [
                await http.put(link, content=b"other"),
                await http.get(link.replace("links/b", "links/a")),
                await http.get(link.replace("X-Amz-Expires=60", "X-Amz-Expires=6000")),
                await http.get(link.replace(signature, signature[::-1])),
            ]
            unsigned = await http.get(link.partition("?")[0])

        assert [answer.status_code for answer in answers] == [403] * 4
        assert unsigned.is_client_error
        assert await store.get("links/b") == b"hello"

    async def test_a_link_of_another_secret_is_refused(
        self, store: ObjectStore, bucket: Bucket
    ) -> None:
        await store.put("links/c", b"hello", content_type="text/plain")
        theirs = a_store(**in_bucket(bucket.endpoint, s3_secret_access_key=SecretStr("guessed")))

        async with httpx.AsyncClient() as http:
            answer = await http.get(await self.link(theirs, "GET", "links/c"))

        assert answer.status_code == 403

    async def test_a_link_expires(self, store: ObjectStore) -> None:
        await store.put("links/d", b"hello", content_type="text/plain")
        link = await self.link(store, "GET", "links/d", seconds=1)

        async with httpx.AsyncClient() as http:
            answer = await http.get(link)
            while answer.status_code == 200:
                answer = await http.get(link)

        assert answer.status_code == 403
        assert b"expired" in answer.content

    async def test_a_digest_that_does_not_match_is_refused_and_leaves_nothing(
        self, store: ObjectStore
    ) -> None:
        other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        link = await self.link(store, "PUT", "links/e")

        async with httpx.AsyncClient() as http:
            answer = await http.put(
                link, content=b"hello", headers={"x-amz-checksum-sha256": other}
            )

        assert answer.status_code == 400
        assert b"BadDigest" in answer.content
        with pytest.raises(FileNotFoundError):
            await store.get("links/e")

    async def test_what_we_put_carries_its_digest_and_is_created_once(
        self, store: ObjectStore
    ) -> None:
        await store.put("links/f", b"hello", content_type="application/pdf", filename="ü 1.pdf")

        with pytest.raises(obstore.exceptions.AlreadyExistsError):
            await obstore.put_async(store._store, "links/f", b"other", mode="create")
        async with httpx.AsyncClient() as http:
            got = await http.get(await self.link(store, "GET", "links/f"))

        assert got.content == b"hello"
        assert got.headers["content-type"] == "application/pdf"
        assert got.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BC%201.pdf"


# ---- attachments in a bucket: the same calls, and the links are S3's


@pytest.fixture(scope="session")
async def on_bucket(
    deployment: Deployment, issuer: TokenIssuer, bucket: Bucket
) -> AsyncIterator[Running]:
    service, settings = service_named("invoicing"), in_bucket(bucket.endpoint)
    async with running(service, deployment, issuer, worker=False, **settings) as started:
        yield started


class TestAttachments:
    pytestmark = needs_swift

    @pytest.fixture
    async def me(self, issuer: TokenIssuer, new_account: NewAccount) -> dict[str, str]:
        return issuer.of_account(await new_account())

    async def test_an_attachment_is_uploaded_checked_and_downloaded(
        self, on_bucket: Running, me: dict[str, str]
    ) -> None:
        api = on_bucket.http
        declared = body(await api.post("/v1/attachments", json=a_file(b"We agree."), headers=me))
        path = f"/v1/attachments/{declared['id']}"
        early = await api.post(f"{path}/complete", headers=me)
        async with httpx.AsyncClient() as s3:
            put = await s3.put(declared["url"], content=b"We agree.")
            done = body(await api.post(f"{path}/complete", headers=me))
            # Whoever still holds the link of the upload changes nothing by it.
            await s3.put(declared["url"], content=b"We AGREE.")
            got = await s3.get(done["url"])

        assert early.json()["code"] == "attachment-not-uploaded"
        assert put.status_code == 200
        assert got.content == b"We agree."
        assert got.headers["content-type"] == "text/plain"
        assert "contract.txt" in got.headers["content-disposition"]

    @pytest.mark.parametrize("upload", [b"We AGREE.", b"We agree. Not.", b"We agree"])
    async def test_what_is_not_what_was_declared_is_refused_and_removed(
        self, on_bucket: Running, me: dict[str, str], upload: bytes
    ) -> None:
        api = on_bucket.http
        declared = body(await api.post("/v1/attachments", json=a_file(b"We agree."), headers=me))
        path = f"/v1/attachments/{declared['id']}"
        async with httpx.AsyncClient() as s3:
            await s3.put(declared["url"], content=upload)
        refused = await api.post(f"{path}/complete", headers=me)
        again = await api.post(f"{path}/complete", headers=me)

        assert refused.json()["code"] == "attachment-mismatch"
        assert again.json()["code"] == "attachment-not-uploaded"

    async def test_what_is_never_completed_is_forgotten(
        self, on_bucket: Running, me: dict[str, str]
    ) -> None:
        api, runtime = on_bucket.http, on_bucket.runtime
        declared = body(await api.post("/v1/attachments", json=a_file(b"We agree."), headers=me))
        async with httpx.AsyncClient() as s3:
            await s3.put(declared["url"], content=b"We agree.")
        long_ago = utc_now() - timedelta(days=2)
        async with runtime.begin() as uow:
            await uow.session.execute(
                attachments.update()
                .where(attachments.c.id == declared["id"])
                .values(created_at=long_ago)
            )

        await clear_attachments(runtime, Due(utc_now(), runtime.database.platform))

        gone = await api.get(f"/v1/attachments/{declared['id']}", headers=me)
        assert gone.status_code == 404
