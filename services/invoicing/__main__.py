"""`python -m services.invoicing api|worker|migrate`."""

from shared.process import main

# Rendering processes import this module and must not start another service.
if __name__ == "__main__":
    main("invoicing")
