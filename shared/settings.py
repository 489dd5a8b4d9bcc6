"""What every process is told by its environment; services add their own on top."""

import os
import sys
from collections.abc import Iterator
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import (
    Field,
    PostgresDsn,
    RedisDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "PERENNIAL_"

#: A password that is shorter was chosen to be typed.
SHORTEST_SECRET = 8
#: What our own examples have, what servers come with, and what is typed when nobody looks.
KNOWN_SECRETS = frozenset((
    "admin", "auth", "changeme", "default", "deployer", "development", "example", "guest",
    "hunter2", "invoicing", "minio123", "minioadmin", "passw0rd", "password", "payments",
    "perennial", "perennial-development", "postgres", "rabbitmq", "redis", "root", "sandbox",
    "secret", "subscriptions", "test", "testtest", "whsec_sandbox", "whsec_test",
))  # fmt: skip
#: In the address of a database: how it knows us without a password.
WITHOUT_PASSWORD = ("sslcert", "passfile")


def weakness(secret: str, *, user: str | None = None) -> str | None:
    """What is wrong with a password or a secret in production, as the end of a sentence."""
    if not secret:
        return "is empty"
    if secret.lower() in KNOWN_SECRETS or secret == user:
        return "is the one of the examples, or one that everybody knows"
    if len(secret) < SHORTEST_SECRET:
        return f"is shorter than {SHORTEST_SECRET} characters"
    return None


def weakness_of_url(url: str, *, needs_password: bool = True) -> str | None:
    """The same, of the password in a server's address."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if not parts.password:
        by_socket = any(host.startswith("/") for host in query.get("host", []))
        if not needs_password or by_socket or any(name in query for name in WITHOUT_PASSWORD):
            return None
        return "has no password"
    found = weakness(unquote(parts.password), user=unquote(parts.username or "") or None)
    return f"has a password that {found}" if found else None


class Settings(BaseSettings):
    """All settings are environment variables named `PERENNIAL_<NAME>` (docs/configuration.md)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    environment: Literal["development", "production"] = Field(
        "development",
        description="`production` refuses to start with what is meant for development "
        "(docs/operations.md, going live).",
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
        default=None,
        validate_default=True,
        description="Whether accounts may live in simulated time; unless it is said, they may in "
        "development.",
    )
    run_consumers: bool = Field(default=True, description="Whether a worker handles events.")
    run_relay: bool = Field(default=True, description="Whether a worker publishes the outbox.")
    run_schedule: bool = Field(default=True, description="Whether a worker does what is due.")
    prefetch: int = Field(100, ge=1, le=1000, description="Messages in hand per queue.")
    shutdown_grace_seconds: float = Field(
        20, gt=0, description="How long a stopping process may finish what it has in hand."
    )

    @field_validator("test_clocks", mode="before")
    @classmethod
    def _by_environment(cls, value: object, info: ValidationInfo) -> object:
        """Empty is as if it were not set: compose hands on what nobody chose."""
        if value in (None, ""):
            return info.data.get("environment") == "development"
        return value

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

    def unfit_for_production(self) -> Iterator[str]:
        """What must not be so where real money moves, each as a variable and what is wrong.

        Services add their own; plug-ins are looked at by their variables.
        """
        for name in ("database_url", "broker_url", "broker_admin_url"):
            url: SecretStr | None = getattr(self, name)
            if url is not None:
                yield from _faults(name, weakness_of_url(url.get_secret_value()))
        redis = weakness_of_url(self.redis_url.get_secret_value(), needs_password=False)
        yield from _faults("redis_url", redis)

    def _weak(self, *names: str) -> Iterator[str]:
        """Of these secrets, those that are set and are none."""
        for name in names:
            secret: Any = getattr(self, name)
            if secret is not None:
                text = secret.get_secret_value() if isinstance(secret, SecretStr) else str(secret)
                yield from _faults(name, weakness(text))


def _faults(name: str, fault: str | None) -> Iterator[str]:
    if fault:
        yield f"{PREFIX}{name.upper()} {fault}"


def weak_in_environment(*names: str) -> Iterator[str]:
    """Of variables that no settings of ours declare: those that are set and are no secret."""
    for name in names:
        if PREFIX + name in os.environ:
            yield from _faults(name, weakness(os.environ[PREFIX + name]))


S = TypeVar("S", bound=Settings)


def load(kind: type[S]) -> S:
    """The settings from the environment, or one message that names every fault and exit code 2."""
    try:
        settings = kind()
    except ValidationError as error:
        faults = "; ".join(
            f"{PREFIX}{'_'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False)
        )
        sys.stderr.write(f"Settings are wrong: {faults}\n")
        raise SystemExit(2) from None
    if settings.environment == "production":
        refuse_unfit(settings.unfit_for_production())
    return settings


def refuse_unfit(faults: Iterator[str]) -> None:
    """End the process with 2 and one sentence that names every fault, if there is one."""
    if found := "; ".join(faults):
        sys.stderr.write(f"Not fit for production: {found}.\n")
        raise SystemExit(2)
