"""Start the sandbox: `python -m services.payments.sandbox`."""

import sys

import uvicorn
from pydantic import ValidationError

from services.payments.sandbox.app import create_app
from services.payments.sandbox.settings import SandboxSettings
from shared.files import write_for_owner_only
from shared.settings import refuse_unfit


def main() -> None:
    try:
        settings = SandboxSettings()
    except ValidationError as wrong:
        sys.exit(f"The sandbox's settings are wrong: {wrong}")
    if settings.environment == "production":
        refuse_unfit(iter(["the sandbox is no payment provider, it charges nobody"]))
    write_for_owner_only()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level.lower(),
        access_log=False,
        timeout_graceful_shutdown=2,
        # Longer than a caller keeps an idle connection: one that ends just as it is used again
        # would look like a lost answer.
        timeout_keep_alive=75,
    )


if __name__ == "__main__":
    main()
