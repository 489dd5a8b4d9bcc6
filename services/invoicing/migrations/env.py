"""Alembic's entry: invoicing's tables."""

from services.invoicing.tables import metadata
from shared.migrations import run

run(metadata)
