"""The object store: a local folder, or S3; and links to it that expire."""

import asyncio
import hashlib
import hmac
import os
import time
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from services.invoicing.settings import InvoicingSettings
from shared.errors import Forbidden
from shared.files import private_folder

LINK_SECONDS = 900


class LinkRefused(Forbidden):
    code = "link-refused"


class TooLarge(Exception):
    """The object is larger than whoever reads it wants to hold; `size` in bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"The object has {size} bytes.")
        self.size = size


class ObjectStore:
    """Objects by key. Local writes are on the disk when `put` returns."""

    def __init__(self, settings: InvoicingSettings) -> None:
        self._settings = settings
        url = urlsplit(settings.object_store_url)
        self.folder: Path | None = None
        if url.scheme != "s3":
            self.folder = Path(url.path if url.scheme == "file" else settings.object_store_url)

    @cached_property
    def _store(self) -> Any:
        # Loaded when first used: a process that stores nothing does not pay for it.
        from obstore.store import LocalStore  # noqa: PLC0415

        if self.folder is None:
            return self._bucket(self._settings.s3_endpoint)
        return LocalStore(private_folder(self.folder))

    @cached_property
    def _linked(self) -> Any:
        """The bucket by the name that clients know it by, which is part of what is signed."""
        return self._bucket(self._settings.s3_public_endpoint or self._settings.s3_endpoint)

    def _bucket(self, endpoint: str | None) -> Any:
        from obstore.store import S3Store  # noqa: PLC0415

        settings = self._settings
        url = urlsplit(settings.object_store_url)
        secret = settings.s3_secret_access_key
        options: dict[str, Any] = {
            "prefix": url.path.strip("/") or None,
            "endpoint": endpoint,
            "region": settings.s3_region,
            "access_key_id": settings.s3_access_key_id,
            "secret_access_key": secret.get_secret_value() if secret else None,
            "checksum_algorithm": "SHA256",
            # The library's own patience is three minutes.
            "client_options": {"timeout": timedelta(seconds=20), "allow_http": True},
            "retry_config": {"max_retries": 2, "retry_timeout": timedelta(seconds=20)},
        }
        return S3Store(url.netloc, **{name: v for name, v in options.items() if v is not None})

    async def put(
        self, key: str, data: bytes, *, content_type: str, filename: str | None = None
    ) -> None:
        """Store it. A key is written once and with one content alone.

        What is there already and differs was cut off by a power failure, or damaged since: it is
        written anew.
        """
        import obstore  # noqa: PLC0415
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415

        attributes = None
        if self.folder is None:
            attributes = {"Content-Type": content_type}
            if filename is not None:
                attributes["Content-Disposition"] = disposition(filename)
        how: dict[str, Any] = {"attributes": attributes, "use_multipart": False}
        try:
            await obstore.put_async(self._store, key, data, mode="create", **how)
        except AlreadyExistsError:
            if await self.get(key) != data:
                await obstore.put_async(self._store, key, data, mode="overwrite", **how)
        if self.folder is not None:
            await asyncio.to_thread(_to_disk, self.folder, key)

    async def get(self, key: str, *, at_most: int | None = None) -> bytes:
        """All of it. Raises `FileNotFoundError`, and `TooLarge` before much of it is read."""
        import obstore  # noqa: PLC0415

        answer = await obstore.get_async(self._store, key)
        if at_most is not None and answer.meta["size"] > at_most:
            raise TooLarge(answer.meta["size"])
        return bytes(await answer.bytes_async())

    async def delete(self, key: str) -> None:
        """Remove it; what is not there is removed."""
        import obstore  # noqa: PLC0415

        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            return

    async def delete_older(self, prefix: str, than: datetime) -> int:
        """Remove what was written under a prefix before an instant; how many objects."""
        import obstore  # noqa: PLC0415

        old: list[str] = []
        async for found in obstore.list(self._store, prefix):
            old += [one["path"] for one in found if one["last_modified"] < than]
        for key in old:
            await self.delete(key)
        return len(old)

    async def presign(self, method: str, key: str, seconds: int = LINK_SECONDS) -> str | None:
        """A link that S3 itself answers; None for a local folder, which has no server."""
        if self.folder is not None:
            return None
        import obstore  # noqa: PLC0415

        link = await obstore.sign_async(self._linked, method, key, timedelta(seconds=seconds))  # type: ignore[call-overload]
        return str(link)


def disposition(filename: str) -> str:
    """The header by which a browser saves the file under this name instead of showing it."""
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"


def _to_disk(root: Path, key: str) -> None:
    """LocalStore renames but does not sync: a power failure could lose what was acknowledged."""
    path = root / key
    for target in (path, *(folder for folder in path.parents if folder.is_relative_to(root))):
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
        expected = self._sign(method, path, expires)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise LinkRefused("This link was not made here, or was changed.")
        if expires < time.time():
            raise LinkRefused("This link has expired. Ask for a new one.")

    def _sign(self, method: str, path: str, expires: int) -> str:
        message = f"{method}\n{path}\n{expires}".encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
