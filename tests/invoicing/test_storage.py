"""The object store with a bucket: links are made offline, signed for one method, and expire."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from services.invoicing.settings import InvoicingSettings
from services.invoicing.storage import ObjectStore


def settings(url: str) -> InvoicingSettings:
    return InvoicingSettings(
        database_url=SecretStr("postgresql://invoicing@127.0.0.1/perennial"),
        broker_url=SecretStr("amqp://127.0.0.1"),
        redis_url=SecretStr("redis://127.0.0.1"),
        object_store_url=url,
        s3_endpoint="http://127.0.0.1:9000",
        s3_access_key_id="key",
        s3_secret_access_key=SecretStr("secret"),
    )


async def test_links_to_a_bucket_are_signed_for_one_method_and_expire() -> None:
    store = ObjectStore(settings("s3://papers/tenant"))

    put = await store.presign("PUT", "attachments/1", seconds=60)
    get = await store.presign("GET", "attachments/1", seconds=60)

    assert put is not None
    assert get is not None
    parts = urlsplit(put)
    query = parse_qs(parts.query)
    assert parts.path == "/papers/tenant/attachments/1"
    assert query["X-Amz-Expires"] == ["60"]
    assert query["X-Amz-Signature"] != parse_qs(urlsplit(get).query)["X-Amz-Signature"]
    assert "secret" not in put


async def test_a_key_is_written_once_and_a_folder_signs_no_links(tmp_path: Path) -> None:
    store = ObjectStore(settings(str(tmp_path / "objects")))

    first = await store.put("a/b", b"one", content_type="text/plain")
    await store.put("a/b", b"two", content_type="text/plain")

    assert len(first) == 64
    assert await store.get("a/b") == b"one"
    assert await store.presign("GET", "a/b") is None
    await store.delete("a/b")
    await store.delete("a/b")
