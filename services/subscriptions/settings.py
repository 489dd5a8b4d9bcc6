"""The environment of the subscriptions service."""

from pydantic import Field

from shared.settings import Settings


class SubscriptionsSettings(Settings):
    """What subscriptions needs beside what every service does."""

    renewal_batch: int = Field(
        100, ge=1, le=1000, description="Subscriptions renewed in one transaction."
    )
    invoicing_url: str | None = Field(
        None, description="Invoicing's API, which prices previews; without it none has an invoice."
    )
    test_clock_wait_seconds: float = Field(
        20, ge=0, le=55, description="How long an advance waits before it answers with progress."
    )
