"""Start a process of auth: `python -m services.auth api|worker|migrate|staff|rotate-keys`."""

from shared.process import main

if __name__ == "__main__":
    main("auth")
