"""`python -m services.invoicing api|worker|migrate`."""

from shared.process import main

main("invoicing")
