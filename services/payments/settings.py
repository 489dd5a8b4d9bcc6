"""The payments service's environment variables."""

from pydantic import Field

from shared.settings import Settings


class PaymentsSettings(Settings):
    """Beside these, each provider has variables of its own (docs/providers.md)."""

    providers: str = Field(
        "sandbox", description="The payment providers in use, separated by commas."
    )
    charges_in_flight: int = Field(
        64, ge=1, le=1000, description="Charges that one worker has under way at once."
    )

    @property
    def enabled_providers(self) -> list[str]:
        return [name.strip() for name in self.providers.split(",") if name.strip()]
