"""`python -m services.subscriptions api|worker|migrate|seed`."""

from shared.process import main

main("subscriptions")
