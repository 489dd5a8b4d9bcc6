"""A provider's webhook as it waits to be worked off."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

#: After so many failures a person has to look.
MOST_TRIES = 12


@dataclass(eq=False, kw_only=True)
class WebhookEvent:
    """A hint that something changed at the provider. What changed is asked for by look-up."""

    id: UUID
    provider: str
    provider_event_id: str
    kind: str
    about: str
    reference: str
    received_at: datetime
    #: When it is worked off; None: done, or a person has to look.
    process_at: datetime | None
    key: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
    processed_at: datetime | None = None
    tries: int = 0
    trouble: str | None = None

    def done(self, *, real_now: datetime) -> None:
        self.processed_at = real_now
        self.process_at = None
        self.trouble = None
        # It may hold a payer's details, and has served.
        self.body = {}

    def take_up(self, *, real_now: datetime) -> None:
        """It is worked off now; should that fail, again ever more slowly, in the end not at all."""
        self.tries += 1
        wait = timedelta(seconds=min(3600, 2**self.tries))
        self.process_at = real_now + wait if self.tries < MOST_TRIES else None
