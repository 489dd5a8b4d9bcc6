"""The sandbox's environment variables."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SandboxSettings(BaseSettings):
    """Read from `PERENNIAL_SANDBOX_…`."""

    model_config = SettingsConfigDict(env_prefix="PERENNIAL_SANDBOX_")

    #: The services' own setting: in production it does not start.
    environment: Literal["development", "production"] = Field(
        "development", validation_alias="PERENNIAL_ENVIRONMENT"
    )
    host: str = "127.0.0.1"
    port: int = 8090
    #: The SQLite file that holds the sandbox's books.
    database: Path = Path("sandbox.sqlite3")
    #: Where webhooks are sent; empty sends none.
    webhook_url: str = ""
    webhook_secret: str = "whsec_sandbox"  # noqa: S105  (development only, and overridden)
    #: How long a call hangs for the time-out tokens.
    hang_seconds: float = 30.0
    #: Waited before every answer, to look like a far-away provider.
    latency_seconds: float = 0.0
    #: The address that a payer's browser reaches, for 3-D Secure links.
    public_url: str = ""
    log_level: str = "WARNING"

    @property
    def base_url(self) -> str:
        return self.public_url or f"http://{self.host}:{self.port}"
