"""Invoicing's environment variables."""

from shared.settings import Settings


class InvoicingSettings(Settings):
    """Those that every service has; all are named `PERENNIAL_<NAME>`."""
