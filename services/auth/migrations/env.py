"""Migrations of the auth schema."""

from services.auth.tables import metadata
from shared.migrations import run

run(metadata)
