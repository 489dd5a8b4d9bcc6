"""The broker's vhost, users and rights as a definitions file, which RabbitMQ loads as it starts.

`python -m infra.rabbitmq.definitions` prints it, with the passwords in
PERENNIAL_<SERVICE>_BROKER_PASSWORD and PERENNIAL_DEPLOYER_BROKER_PASSWORD.
"""

import base64
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from infra.environment import DEPLOYER, SERVICES, VHOST


def definitions(passwords: Mapping[str, str], vhost: str = VHOST) -> dict[str, Any]:
    """One user per service, who declares nothing, and the deployer, who declares everything."""
    return {
        "users": [
            {
                "name": user,
                "password_hash": _hashed(passwords[user]),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "administrator" if user == DEPLOYER else "",
            }
            for user in (*SERVICES, DEPLOYER)
        ],
        "vhosts": [{"name": vhost}],
        "permissions": [
            {"user": DEPLOYER, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*"},
            *(
                {
                    "user": service,
                    "vhost": vhost,
                    "configure": "",
                    "write": rf"^(billing\.events|{service}\..*)$",
                    "read": rf"^{service}\..*$",
                }
                for service in SERVICES
            ),
        ],
    }


def _hashed(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def main() -> int:
    """The command; says what is missing."""
    names = {user: f"PERENNIAL_{user.upper()}_BROKER_PASSWORD" for user in (*SERVICES, DEPLOYER)}
    missing = [name for name in names.values() if not os.environ.get(name)]
    if missing:
        sys.stderr.write(f"Settings are missing: {', '.join(missing)}\n")
        return 2
    made = definitions({user: os.environ[name] for user, name in names.items()})
    sys.stdout.write(json.dumps(made, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
