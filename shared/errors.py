"""Refusals: what a caller asked for that the rules do not allow, by kind."""

from typing import ClassVar
from uuid import UUID


class DomainError(Exception):
    """A refusal. Final: asking again without a change gives the same answer.

    `code` is stable and listed in docs/errors.md; the text is a sentence to act on.
    """

    code: ClassVar[str] = "refused"

    def __init__(self, detail: str, *, field: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        #: Of a conflict: the thing that is there already.
        self.existing_id: UUID | None = None


class NotFound(DomainError):
    """There is no such thing for this caller."""

    code = "not-found"


class Conflict(DomainError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class Invalid(DomainError):
    """The request makes no sense as it stands; `field` says where."""

    code = "invalid"


class BadRequest(DomainError):
    """The request lacks something that every such request needs."""

    code = "bad-request"


class Unauthenticated(DomainError):
    """Nobody we know is asking."""

    code = "unauthenticated"


class Forbidden(DomainError):
    """Known, but not allowed to."""

    code = "forbidden"


class PreconditionFailed(DomainError):
    """The thing changed since the caller last saw it."""

    code = "precondition-failed"


class TooManyRequests(DomainError):
    """Asked too often; `retry_after_seconds` says when to come back."""

    code = "too-many-requests"

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(DomainError):
    """Something this service leans on is out of reach; nothing was changed."""

    code = "unavailable"


class TestClockBusy(Conflict):
    """The account's test clock is on its way: wait until it is ready, then ask again."""

    __test__ = False  # not a test class, whatever its name begins with

    code = "test-clock-busy"


class MigrationFailed(Exception):
    """A service's schema cannot be brought to where its code wants it."""
