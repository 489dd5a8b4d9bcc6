"""Start a process of this service: `python -m services.payments api|worker|migrate|audit`."""

from shared.process import main

if __name__ == "__main__":
    main("payments")
