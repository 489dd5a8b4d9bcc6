"""Fills in the gateway's template for one machine: fixed addresses instead of a resolver.

Used by the native launcher and by the tests. In compose the nginx image fills in the same
template from its environment, with the values that compose.yaml gives.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TEMPLATE = Path(__file__).with_name("nginx.conf.template")
SERVICES = ("auth", "subscriptions", "invoicing", "payments")

#: What may be tuned, by `PERENNIAL_GATEWAY_<NAME>` natively and in compose alike.
DEFAULTS = {
    "WORKERS": "2",
    "TOKEN_RATE": "100r/s",
    "TOKEN_BURST": "200",
    "ADDRESS_RATE": "200r/s",
    "ADDRESS_BURST": "400",
    "CREDENTIALS_RATE": "20r/s",
    "CREDENTIALS_BURST": "60",
    "API_TIMEOUT": "15s",
    "SLOW_TIMEOUT": "60s",
    "ADVANCE_TIMEOUT": "300s",
    "TRUSTED_PROXY": "unix:",
}
PREFIX = "PERENNIAL_GATEWAY_"


@dataclass(frozen=True)
class Gateway:
    """One nginx on this machine: where it listens, where it writes and whom it asks.

    `upstreams` has a list of host:port per service, one for each API process.
    """

    run_dir: Path
    listen: str
    upstreams: Mapping[str, Sequence[str]]
    settings: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """The whole nginx.conf; raises ValueError naming what is missing or unknown."""
        unknown = sorted(set(self.settings) - set(DEFAULTS))
        if unknown:
            raise ValueError(f"unknown gateway settings: {', '.join(unknown)}")
        groups = [_group(service, self.upstreams.get(service, ())) for service in SERVICES]
        values = {
            **DEFAULTS,
            **self.settings,
            **{f"{service.upper()}_UPSTREAM": f"{service}_api" for service in SERVICES},
            "UPSTREAMS": "\n    ".join(groups),
            "LISTEN": self.listen,
            "RUN_DIR": str(self.run_dir),
            "ERROR_LOG": str(self.run_dir / "error.log"),
            "ACCESS_LOG": str(self.run_dir / "access.log"),
        }
        return _fill(TEMPLATE.read_text(), values)


def _group(service: str, addresses: Sequence[str]) -> str:
    if not addresses:
        raise ValueError(f"the gateway has no address for {service}")
    servers = " ".join(f"server {address} max_fails=2 fail_timeout=2s;" for address in addresses)
    # Shorter than the 75 seconds after which a service closes an idle connection: a POST on a
    # connection that is just being closed could not be sent again.
    return f"upstream {service}_api {{ {servers} keepalive 32; keepalive_timeout 60s; }}"


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Only `${NAME}` in capitals is ours: `$name` belongs to nginx."""
    return re.sub(r"\$\{([A-Z_]+)\}", lambda found: values[found[1]], template)


def settings_from(environ: Mapping[str, str]) -> dict[str, str]:
    """The tunable settings that the environment gives."""
    return {name: environ[PREFIX + name] for name in DEFAULTS if environ.get(PREFIX + name)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the configuration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="logs, pid and scratch files")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="default %(default)s")
    for service in SERVICES:
        parser.add_argument(
            f"--{service}", required=True, metavar="HOST:PORT,…", help="the API processes"
        )
    given = parser.parse_args(arguments)
    gateway = Gateway(
        run_dir=given.run_dir.resolve(),
        listen=given.listen,
        upstreams={name: getattr(given, name).split(",") for name in SERVICES},
        settings=settings_from(os.environ),
    )
    sys.stdout.write(gateway.render())


if __name__ == "__main__":
    main()
