"""The object store: a local folder, or S3; and links to it that expire."""

import asyncio
import hashlib
import hmac
import os
import time
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services.invoicing.settings import InvoicingSettings
from shared.errors import Forbidden

LINK_SECONDS = 900


class LinkRefused(Forbidden):
    code = "link-refused"


class ObjectStore:
    """Objects by key; a key is written once. Local writes are on the disk when `put` returns."""

    def __init__(self, settings: InvoicingSettings) -> None:
        self._settings = settings
        url = urlsplit(settings.object_store_url)
        self.folder: Path | None = None
        if url.scheme != "s3":
            self.folder = Path(url.path if url.scheme == "file" else settings.object_store_url)

    @cached_property
    def _store(self) -> Any:
        # Loaded when first used: a process that stores nothing does not pay for it.
        from obstore.store import LocalStore, S3Store  # noqa: PLC0415

        settings = self._settings
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            return LocalStore(self.folder)
        url = urlsplit(settings.object_store_url)
        secret = settings.s3_secret_access_key
        options: dict[str, Any] = {
            "prefix": url.path.strip("/") or None,
            "endpoint": settings.s3_endpoint,
            "region": settings.s3_region,
            "access_key_id": settings.s3_access_key_id,
            "secret_access_key": secret.get_secret_value() if secret else None,
            "checksum_algorithm": "SHA256",
            # The library's own patience is three minutes.
            "client_options": {"timeout": timedelta(seconds=20), "allow_http": True},
            "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        }
        return S3Store(url.netloc, **{name: v for name, v in options.items() if v is not None})

    async def put(self, key: str, data: bytes, *, content_type: str) -> str:
        """Store it; its SHA-256. What has the same key is there already, and the same."""
        import obstore  # noqa: PLC0415
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415

        attributes = None if self.folder else {"Content-Type": content_type}
        try:
            await obstore.put_async(
                self._store, key, data, mode="create", attributes=attributes, use_multipart=False
            )
        except AlreadyExistsError:
            pass
        else:
            if self.folder is not None:
                await asyncio.to_thread(_to_disk, self.folder / key)
        return hashlib.sha256(data).hexdigest()

    async def get(self, key: str) -> bytes:
        """All of it. Raises `FileNotFoundError`."""
        import obstore  # noqa: PLC0415

        answer = await obstore.get_async(self._store, key)
        return bytes(await answer.bytes_async())

    async def delete(self, key: str) -> None:
        """Remove it; what is not there is removed."""
        import obstore  # noqa: PLC0415

        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return

    async def presign(self, method: str, key: str, seconds: int = LINK_SECONDS) -> str | None:
        """A link that S3 itself answers; None for a local folder, which has no server."""
        if self.folder is not None:
            return None
        import obstore  # noqa: PLC0415

        link = await obstore.sign_async(self._store, method, key, timedelta(seconds=seconds))  # type: ignore[call-overload]
        return str(link)


def _to_disk(path: Path) -> None:
    """LocalStore renames but does not sync: a power failure could lose what was acknowledged."""
    for target in (path, path.parent):
        handle = os.open(target, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Links:
    """Our own links to local objects: signed, for one method, and they expire."""

    def __init__(self, settings: InvoicingSettings) -> None:
        secret = settings.link_secret or settings.database_url
        self._secret = hashlib.sha256(b"links" + secret.get_secret_value().encode()).digest()
        self._base = settings.public_url.rstrip("/")

    def make(self, method: str, path: str, seconds: int = LINK_SECONDS) -> str:
        expires = int(time.time()) + seconds
        signature = self._sign(method, path, expires)
        return f"{self._base}{path}?expires={expires}&signature={signature}"

    def check(self, method: str, path: str, expires: int, signature: str) -> None:
        """Refuse a link that was not made here, was changed, or is too old."""
        if not hmac.compare_digest(signature, self._sign(method, path, expires)):
            raise LinkRefused("This link was not made here, or was changed.")
        if expires < time.time():
            raise LinkRefused("This link has expired. Ask for a new one.")

    def _sign(self, method: str, path: str, expires: int) -> str:
        message = f"{method}\n{path}\n{expires}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
