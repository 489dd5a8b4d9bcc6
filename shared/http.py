"""The HTTP client of every process: httpx, whose failures are all `httpx.HTTPError`."""

from typing import Any

import httpx


class HttpClient(httpx.AsyncClient):
    """As its parent, but a connection that is reset while it opens is an error of the network.

    Where uvloop has closed the socket already, anyio 4.16 asks `None` for its peer, and the
    `AttributeError` would pass every handler of lost connections by.
    """

    async def send(self, request: httpx.Request, **how: Any) -> httpx.Response:
        try:
            return await super().send(request, **how)
        except AttributeError as error:
            if error.name != "getpeername":
                raise
            raise httpx.ReadError("The connection was reset.", request=request) from error
