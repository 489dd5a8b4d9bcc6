"""Accept an upload when it is, byte for byte, what was declared."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from uuid import UUID

from sqlalchemy import select

from services.invoicing.domain.attachment import (
    Attachment,
    AttachmentMismatch,
    AttachmentNotFound,
    AttachmentNotUploaded,
)
from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.storage import ObjectStore, TooLarge
from services.invoicing.tables import attachments

Begin = Callable[[], AbstractAsyncContextManager[InvoicingUnitOfWork]]


async def complete_attachment(begin: Begin, attachment_id: UUID, store: ObjectStore) -> Attachment:
    """Look at what was uploaded, and keep the very bytes that were looked at.

    A mismatch is refused and nothing of it is left behind.
    """
    async with begin() as uow:
        attachment = await find_attachment(uow, attachment_id)
        await uow.require_clock_at_rest(attachment.account_id)
        attachment.require_declared()
    try:
        data = await store.get(attachment.upload_key, at_most=attachment.size)
        attachment.check(data)
    except FileNotFoundError:
        raise AttachmentNotUploaded("Nothing was uploaded yet.") from None
    except TooLarge as upload:
        await store.delete(attachment.upload_key)
        attachment.check_size(upload.size)
        raise
    except AttachmentMismatch:
        await store.delete(attachment.upload_key)
        raise
    await store.put(
        attachment.key,
        data,
        content_type=attachment.content_type,
        filename=attachment.filename,
    )
    async with begin() as uow:
        stored = await find_attachment(uow, attachment_id, lock=True)
        stored.complete(at=await uow.now(stored.account_id))
        uow.audit("attachment.complete", attachment_id, account_id=stored.account_id)
    # Not before the commit: a second try would find neither. What a crash leaves is cleared later.
    await store.delete(attachment.upload_key)
    return stored


async def find_attachment(
    uow: InvoicingUnitOfWork, attachment_id: UUID, *, lock: bool = False
) -> Attachment:
    statement = select(Attachment).where(attachments.c.id == attachment_id)
    found = await uow.session.scalar(statement.with_for_update() if lock else statement)
    if found is None:
        raise AttachmentNotFound("There is no such attachment.")
    return found
