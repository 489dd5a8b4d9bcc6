"""Asks invoicing what a bill would come to: prices, taxes and credit are summed there alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import orjson

from shared.clock import utc_now
from shared.context import current_cause
from shared.errors import (
    BadRequest,
    Conflict,
    DomainError,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)
from shared.events.subscriptions import Billable, SubscriptionChangeLapsed
from shared.messaging import envelope
from shared.observability import logger

if TYPE_CHECKING:
    from shared.http import HttpClient

log = logger(__name__)

TIMEOUT_SECONDS = 3
#: A connection that the other side has closed meanwhile is found out by using it.
ATTEMPTS = 2
#: Shorter than a server keeps an idle connection, so that few are found closed.
IDLE_SECONDS = 2
MOST_RATES = 200

#: What invoicing refuses is refused here in the same way.
KINDS: Mapping[int, type[DomainError]] = {
    HTTPStatus.BAD_REQUEST: BadRequest,
    HTTPStatus.UNAUTHORIZED: Unauthenticated,
    HTTPStatus.FORBIDDEN: Forbidden,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.UNPROCESSABLE_ENTITY: Invalid,
}


class InvoicingAway(Unavailable):
    """Invoices cannot be computed right now, so nothing was; ask again in a moment."""

    code = "invoicing-away"

    def __init__(self) -> None:
        super().__init__("Invoicing is out of reach, so no amount can be said. Ask again soon.")


@dataclass(frozen=True)
class PricedBill:
    """What events would come to, as invoicing would answer once they were real."""

    invoice: dict[str, Any] | None = None
    credit_notes: list[dict[str, Any]] = field(default_factory=list)


class InvoicingClient:
    """Speaks for whoever asks: their own token goes along, and decides what they may see."""

    def __init__(self, base_url: str | None, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._base_url = base_url or None
        self._timeout = timeout_seconds
        self._http: HttpClient | None = None

    @property
    def is_known(self) -> bool:
        """Whether this installation has said where invoicing is."""
        return self._base_url is not None

    async def preview(
        self, events: Sequence[Billable | SubscriptionChangeLapsed], headers: Mapping[str, str]
    ) -> PricedBill:
        """What the last of `events` would be billed as, after the others came; nothing is written.

        Raises `InvoicingAway`, or what invoicing refuses.
        """
        cause = current_cause()
        body = b",".join(envelope.write(event, cause) for event in events)
        answer = await self._ask(
            "POST",
            "/v1/invoices/preview",
            headers={**headers, "Content-Type": "application/json"},
            content=b'{"events":[' + body + b"]}",
        )
        return PricedBill(answer["invoice"], answer["credit_notes"])

    async def has_rate(self, category: str, headers: Mapping[str, str]) -> bool | None:
        """Whether any country's tax rate is on file for the category; None: nobody can say."""
        if not self.is_known:
            return None
        try:
            answer = await self._ask(
                "GET",
                "/v1/tax-rates",
                headers=headers,
                params={"category": category, "limit": MOST_RATES},
            )
        except DomainError:
            return None
        today = utc_now().date().isoformat()
        return any(rate["valid_to"] is None or rate["valid_to"] > today for rate in answer["data"])

    async def _ask(
        self, method: str, path: str, *, headers: Mapping[str, str], **how: Any
    ) -> dict[str, Any]:
        import httpx  # noqa: PLC0415  (a worker, which never asks, does without)

        cause = current_cause()
        sent = {
            **headers,
            "X-Request-ID": cause.correlation_id,
            "traceparent": cause.traceparent,
        }
        client = self._client()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await client.request(method, path, headers=sent, **how)
                break
            except httpx.HTTPError as error:
                again = isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
                if not again or attempt == ATTEMPTS:
                    log.warning("Invoicing is out of reach", path=path, error=repr(error))
                    raise InvoicingAway from error
        if answer.is_success:
            found: dict[str, Any] = orjson.loads(answer.content)
            return found
        raise _refusal(answer.status_code, answer.content, path=path)

    def _client(self) -> "HttpClient":
        if self._base_url is None:
            raise InvoicingAway
        if self._http is None:
            import httpx  # noqa: PLC0415

            from shared.http import HttpClient  # noqa: PLC0415

            self._http = HttpClient(
                base_url=self._base_url,
                timeout=self._timeout,
                limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS),
                trust_env=False,
            )
        return self._http

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None


def _refusal(status: int, body: bytes, *, path: str) -> DomainError:
    """The problem that invoicing answered; what is no problem of the caller's is an outage."""
    kind = KINDS.get(status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TooManyRequests("Too many previews at once.", retry_after_seconds=1)
    try:
        problem = orjson.loads(body)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        kind, code, detail = None, "", ""
    if kind is None:
        log.warning("Invoicing did not answer as it should", path=path, status=status)
        return InvoicingAway()
    refusal = kind(detail)
    vars(refusal)["code"] = code  # invoicing's own, which this service has no class for
    return refusal


def invoicing_of(own: Mapping[str, Any]) -> InvoicingClient:
    """The process's own, as `main.py` has put it there."""
    client: InvoicingClient = own["invoicing"]
    return client
