"""What processes write is for their own user alone."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.auth.mail import FolderMailer, Letter
from services.invoicing.settings import InvoicingSettings
from services.invoicing.storage import ObjectStore
from services.payments.sandbox.books import Books
from shared.clock import utc_now
from shared.files import write_for_owner_only
from shared.ids import new_id


def open_to_others(folder: Path) -> list[Path]:
    """What under the folder (itself too) other users of the machine could get at."""
    return [
        path
        for path in (folder, *folder.rglob("*"))
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]


@pytest.fixture
def as_a_process_starts() -> Iterator[None]:
    before = os.umask(0o022)
    write_for_owner_only()
    yield
    os.umask(before)


@pytest.mark.usefixtures("as_a_process_starts")
async def test_mails_objects_and_the_sandboxs_books_are_for_their_owner(tmp_path: Path) -> None:
    mailbox, objects, books = (tmp_path / name for name in ("mailbox", "objects", "books"))
    for folder in (mailbox, objects):
        folder.mkdir(mode=0o755)  # as an earlier release left it
        folder.chmod(0o755)
    books.mkdir()
    (books / "sandbox.sqlite3").touch()
    (books / "sandbox.sqlite3").chmod(0o644)

    letter = Letter(id=new_id(), to="ada@example.com", subject="Hi", text="…", dated=utc_now())
    async with FolderMailer(mailbox, sender="us@example.com").connected() as send:
        await send(letter)
    settings = InvoicingSettings.model_construct(object_store_url=str(objects))
    await ObjectStore(settings).put("a/b", b"kept", content_type="text/plain")
    kept = Books(books / "sandbox.sqlite3")

    assert open_to_others(mailbox) == open_to_others(objects) == open_to_others(books) == []
    kept.close()
