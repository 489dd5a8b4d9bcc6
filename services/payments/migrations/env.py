"""Migrations of the payments schema."""

from services.payments.tables import metadata
from shared.migrations import run

run(metadata)
