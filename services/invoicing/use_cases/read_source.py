"""Read a file or an address, outside of any transaction."""

from pathlib import Path

import httpx

from shared.errors import Unavailable
from shared.http import HttpClient


async def read_source(source: str) -> bytes:
    """The bytes of a file or an address. Raises `Unavailable` with the reason."""
    try:
        if source.startswith(("http://", "https://")):
            async with HttpClient(timeout=20, follow_redirects=True) as client:
                answer = await client.get(source)
                answer.raise_for_status()
                return answer.content
        return Path(source).read_bytes()  # noqa: ASYNC240  (a command serves nobody else)
    except (httpx.HTTPError, OSError) as error:
        raise Unavailable(f"{source} cannot be read: {error}.") from None
