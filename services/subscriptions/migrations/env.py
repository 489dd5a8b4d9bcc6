"""Alembic's entry: subscriptions's tables."""

from services.subscriptions.tables import metadata
from shared.migrations import run

run(metadata)
