"""What each process is told by its environment; the only place that decides it natively.

compose.yaml gives the same names. What the caller's environment has as PERENNIAL_… is passed on
unless it is decided here, so `PERENNIAL_LOG_LEVEL=DEBUG make up` works.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

SERVICES = ("auth", "subscriptions", "invoicing", "payments")
DATABASE = "perennial"
VHOST = "perennial"
DEPLOYER = "deployer"

LAUNCHERS_OWN = ("PERENNIAL_GATEWAY_", "PERENNIAL_NATIVE", "PERENNIAL_RUN_DIR")

#: Who may look around in a development system; production names its own.
STAFF_EMAIL = "staff@example.com"
STAFF_PASSWORD = "perennial-development"  # noqa: S105


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where everything is, as `host:port`, and the passwords of the roles, users and webhooks."""

    postgres: str
    rabbitmq: str
    redis: str
    auth: str
    invoicing: str
    sandbox: str
    gateway: str
    public_url: str
    run_dir: Path
    passwords: Mapping[str, str]
    caller: Mapping[str, str]

    @property
    def _asked(self) -> dict[str, str]:
        """The caller's settings for processes; the others are the launcher's own."""
        return {
            key: value
            for key, value in self.caller.items()
            if key.startswith("PERENNIAL_") and not key.startswith(LAUNCHERS_OWN)
        }

    @property
    def is_production(self) -> bool:
        """Without a staff user that everybody knows, and without the sandbox provider."""
        return is_production(self.caller)

    def service(self, name: str) -> dict[str, str]:
        """For `api`, `worker` and the service's own commands."""
        password = self.passwords[f"database_{name}"]
        return {
            **({} if self.is_production else _FOR_DEVELOPMENT.get(name, {})),
            "PERENNIAL_ENVIRONMENT": "development",
            "PERENNIAL_PUBLIC_URL": self.public_url,
            **self._asked,
            **self._own(name),
            "PERENNIAL_DATABASE_URL": f"postgresql://{name}:{password}@{self.postgres}/{DATABASE}",
            "PERENNIAL_BROKER_URL": self.broker(name),
            "PERENNIAL_REDIS_URL": f"redis://:{self.passwords['redis']}@{self.redis}/0",
            "PERENNIAL_HOST": "127.0.0.1",
            "PERENNIAL_JWKS_URL": f"http://{self.auth}/.well-known/jwks.json",
        }

    def migrate(self, name: str) -> dict[str, str]:
        """The same, and the right to declare the broker's topology."""
        return self.service(name) | {"PERENNIAL_BROKER_ADMIN_URL": self.broker(DEPLOYER)}

    def _own(self, name: str) -> dict[str, str]:
        if name == "auth":
            return {"PERENNIAL_MAIL_DIR": str(self.run_dir / "mailbox")}
        if name == "subscriptions":
            return {"PERENNIAL_INVOICING_URL": f"http://{self.invoicing}"}
        if name == "payments":
            return {
                "PERENNIAL_SANDBOX_URL": f"http://{self.sandbox}",
                "PERENNIAL_SANDBOX_WEBHOOK_SECRET": self.passwords["sandbox_webhooks"],
            }
        return {}

    def provider(self) -> dict[str, str]:
        """For the sandbox payment provider."""
        host, _, port = self.sandbox.partition(":")
        return {
            **self._asked,
            "PERENNIAL_SANDBOX_HOST": host,
            "PERENNIAL_SANDBOX_PORT": port,
            "PERENNIAL_SANDBOX_DATABASE": str(self.run_dir / "sandbox.sqlite3"),
            "PERENNIAL_SANDBOX_WEBHOOK_URL": f"http://{self.gateway}/v1/webhooks/sandbox",
            "PERENNIAL_SANDBOX_WEBHOOK_SECRET": self.passwords["sandbox_webhooks"],
        }

    def client(self) -> dict[str, str]:
        """For who uses the system from outside: the demo."""
        staff = self.service("auth")
        names = ("PUBLIC_URL", "MAIL_DIR", "STAFF_EMAIL", "STAFF_PASSWORD")
        return {
            f"PERENNIAL_{name}": staff[f"PERENNIAL_{name}"]
            for name in names
            if f"PERENNIAL_{name}" in staff
        }

    def broker(self, user: str) -> str:
        """The broker as one of its users reaches it."""
        return f"amqp://{user}:{self.passwords[f'broker_{user}']}@{self.rabbitmq}/{quote(VHOST)}"


def is_production(environment: Mapping[str, str]) -> bool:
    """Whether whoever has this environment asks for production."""
    return environment.get("PERENNIAL_ENVIRONMENT") == "production"


_FOR_DEVELOPMENT = {
    "auth": {
        "PERENNIAL_STAFF_EMAIL": STAFF_EMAIL,
        "PERENNIAL_STAFF_PASSWORD": STAFF_PASSWORD,
        # On one machine everybody comes from one address.
        "PERENNIAL_MAILS_FROM_ONE_NETWORK": "0",
    }
}

#: Every password that a deployment on one machine has; the launcher makes them up once.
PASSWORDS = (
    "postgres",
    "redis",
    "sandbox_webhooks",
    f"broker_{DEPLOYER}",
    *(f"broker_{service}" for service in SERVICES),
    *(f"database_{service}" for service in SERVICES),
)
