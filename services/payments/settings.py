"""The payments service's environment variables."""

from collections.abc import Iterator

from pydantic import Field

from shared.settings import Settings, weak_in_environment


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

    def unfit_for_production(self) -> Iterator[str]:
        yield from super().unfit_for_production()
        if "sandbox" in self.enabled_providers:
            yield "PERENNIAL_PROVIDERS has the sandbox, which charges nobody"
        for name in self.enabled_providers:
            own = name.upper().replace("-", "_")
            yield from weak_in_environment(f"{own}_API_KEY", f"{own}_WEBHOOK_SECRET")
