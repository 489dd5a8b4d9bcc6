"""What every process is told by its environment; services add their own on top."""

import sys
from typing import Literal, TypeVar

from pydantic import (
    Field,
    PostgresDsn,
    RedisDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "PERENNIAL_"


class Settings(BaseSettings):
    """All settings are environment variables named `PERENNIAL_<NAME>` (docs/configuration.md)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    environment: Literal["development", "production"] = Field(
        "development", description="`production` turns development conveniences off."
    )
    database_url: SecretStr = Field(description="Postgres, with the service's own role.")
    database_pool_size: int = Field(5, ge=1, le=200, description="Connections kept open.")
    database_max_overflow: int = Field(5, ge=0, le=200, description="More of them under load.")
    broker_url: SecretStr = Field(description="RabbitMQ, with the service's own user.")
    broker_admin_url: SecretStr | None = Field(
        None, description="RabbitMQ, with a user that may declare; only `migrate` needs it."
    )
    redis_url: SecretStr = Field(description="Redis; a cache, never the truth.")
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Where the API listens.")
    internal_port: int = Field(
        0, ge=0, le=65535, description="Where /health and /metrics listen; 0 turns them off."
    )
    jwks_url: str = Field(
        "http://127.0.0.1:8101/.well-known/jwks.json",
        description="Where auth publishes the keys that sign access tokens.",
    )
    issuer: str = Field("perennial", description="`iss` of access tokens.")
    audience: str = Field("perennial", description="`aud` of access tokens.")
    public_url: str = Field("http://localhost:8080", description="What clients call us by.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least severe line that is logged."
    )
    test_clocks: bool = Field(
        default=False, description="Whether accounts may live in simulated time."
    )
    run_consumers: bool = Field(default=True, description="Whether a worker handles events.")
    run_relay: bool = Field(default=True, description="Whether a worker publishes the outbox.")
    run_schedule: bool = Field(default=True, description="Whether a worker does what is due.")
    prefetch: int = Field(100, ge=1, le=1000, description="Messages in hand per queue.")
    shutdown_grace_seconds: float = Field(
        20, gt=0, description="How long a stopping process may finish what it has in hand."
    )

    @field_validator("database_url")
    @classmethod
    def _postgres(cls, value: SecretStr) -> SecretStr:
        TypeAdapter(PostgresDsn).validate_python(value.get_secret_value())
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, value: SecretStr) -> SecretStr:
        TypeAdapter(RedisDsn).validate_python(value.get_secret_value())
        return value


S = TypeVar("S", bound=Settings)


def load(kind: type[S]) -> S:
    """The settings from the environment, or one message that names every fault and exit code 2."""
    try:
        return kind()
    except ValidationError as error:
        faults = "; ".join(
            f"{PREFIX}{'_'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False)
        )
        sys.stderr.write(f"Settings are wrong: {faults}\n")
        raise SystemExit(2) from None
