"""Keys whose maker could not make them today end when their release comes, and say why."""

import asyncio
from typing import Any

import asyncpg
import pytest

from shared import migrations
from shared.ids import new_id
from tests.databases import FreshDatabase

pytestmark = pytest.mark.servers

USER = """
INSERT INTO auth.users (id, home_account_id, password_hash, status, staff_role, created_at, version)
VALUES ($1, $1, NULL, $2, $3, now(), 1)
"""
MEMBER = """
INSERT INTO auth.memberships (id, account_id, user_id, role, created_at, version)
VALUES ($1, $2, $3, 'owner', now(), 1)
"""
KEY = """
INSERT INTO auth.api_keys (id, account_id, name, prefix, key_hash, role, scopes, created_by,
                           created_at, revoked_at)
VALUES ($1, $2, 'k', 'prn_', sha256(uuid_send($1)), 'owner', '{}', $3, now(),
        CASE WHEN $4 THEN now() END)
"""


async def migrate(work: Any, url: str, *arguments: str) -> None:
    """Alembic runs a loop of its own."""
    await asyncio.to_thread(work, "auth", url, *arguments)


async def test_keys_without_a_maker_end_with_the_reason(empty_database: FreshDatabase) -> None:
    url = empty_database.url("auth")
    await migrate(migrations.upgrade, url, "0008")
    account = new_id()
    #: Of the maker: status, staff role, whether a member; of the key: whether over; what becomes.
    cases: list[tuple[str, str | None, bool, bool, str | None]] = [
        ("active", None, True, False, None),
        ("active", None, False, False, "maker-left"),
        ("active", "support", False, False, "maker-left"),
        ("active", "admin", False, False, None),
        ("suspended", None, True, False, "maker-suspended"),
        ("erased", None, False, False, "maker-erased"),
        ("active", None, False, True, "revoked"),
    ]
    keys = [new_id() for _ in cases]
    connection = await asyncpg.connect(empty_database.admin_url)
    try:
        # Without the account that they are of.
        await connection.execute("SET session_replication_role = replica")
        for key, (status, staff, is_member, is_over, _) in zip(keys, cases, strict=True):
            maker = new_id()
            await connection.execute(USER, maker, status, staff)
            if is_member:
                await connection.execute(MEMBER, new_id(), account, maker)
            await connection.execute(KEY, key, account, maker, is_over)

        await migrate(migrations.upgrade, url, "0009")
        rows = await connection.fetch(
            "SELECT id, revoked_because, revoked_at IS NOT NULL AS is_over FROM auth.api_keys"
        )
        await migrate(migrations.downgrade, url, "0008")
        await migrate(migrations.upgrade, url)
    finally:
        await connection.close()

    found = {row["id"]: (row["revoked_because"], row["is_over"]) for row in rows}
    assert found == {
        key: (because, because is not None)
        for key, (_, _, _, _, because) in zip(keys, cases, strict=True)
    }
