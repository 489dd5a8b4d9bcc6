"""The way back from proven addresses, on rows that the release before has no word for."""

import asyncio
import secrets
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from shared import migrations
from tests.databases import FreshDatabase

pytestmark = pytest.mark.servers

BELOW = "0006"

USER = """
INSERT INTO auth.users (id, home_account_id, password_hash, status, created_at, version)
VALUES ($1, $1, 'h', 'active', now(), 1)
"""
TOKEN = """
INSERT INTO auth.mailed_tokens (
    token_hash, user_id, purpose, email, address_key, created_at, expires_at)
VALUES ($1, $2, $3, 'a@example.com', 'a@example.com', now(), now())
"""
MAIL = """
INSERT INTO auth.mails (
    id, address, template, facts, dated, status, attempts, next_attempt_at, created_at)
VALUES ($1, 'a@example.com', $2, '{}', now(), 'waiting', 0, now(), now())
"""
REGISTRATION = """
INSERT INTO auth.registrations (
    id, account_id, email, address_key, password_hash, country, time_zone, created_at, expires_at)
VALUES ($1, $1, 'a@example.com', 'a@example.com', 'h', 'DE', 'UTC', now(), now())
"""
DEVICE = "INSERT INTO auth.known_devices VALUES ($1, $2, now(), now())"


async def migrate(work: Any, url: str, *arguments: str) -> None:
    """Alembic runs a loop of its own."""
    await asyncio.to_thread(work, "auth", url, *arguments)


async def test_the_release_before_finds_the_tokens_and_mails_that_it_knows(
    empty_database: FreshDatabase,
) -> None:
    url = empty_database.url("auth")
    await migrate(migrations.upgrade, url)
    connection = await asyncpg.connect(empty_database.admin_url)
    try:
        user = uuid4()
        await connection.execute(USER, user)
        await connection.execute(REGISTRATION, uuid4())
        await connection.execute(DEVICE, user, secrets.token_bytes(32))
        await connection.execute(TOKEN, secrets.token_bytes(32), user, "reset_password")
        await connection.execute(TOKEN, secrets.token_bytes(32), None, "verify_email")
        for template in ("sign_up", "account_exists", "reset_password"):
            await connection.execute(MAIL, uuid4(), template)

        await migrate(migrations.downgrade, url, BELOW)

        tokens = await connection.fetch("SELECT purpose FROM auth.mailed_tokens")
        mails = await connection.fetch("SELECT template FROM auth.mails")
        assert [row["purpose"] for row in tokens] == ["reset_password"]
        assert [row["template"] for row in mails] == ["reset_password"]
        await migrate(migrations.upgrade, url)
        # What the release before writes while both run, and what it left: a token of a user.
        await connection.execute(
            "INSERT INTO auth.mailed_tokens (token_hash, user_id, purpose, created_at, expires_at)"
            " VALUES ($1, $2, 'verify_email', now(), now())",
            secrets.token_bytes(32),
            user,
        )
    finally:
        await connection.close()
