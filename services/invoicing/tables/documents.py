"""Files: of documents, and attached by people."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    Table,
    Text,
    Uuid,
    text,
)

from services.invoicing.domain.attachment import Attachment, AttachmentState
from services.invoicing.domain.document import Document, DocumentState, Subject
from services.invoicing.tables.base import INSTANT, mapper, metadata, of_invoice
from shared.db import stored

documents = Table(
    "documents",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("subject", stored(Subject), nullable=False),
    Column("state", stored(DocumentState), nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("due_at", INSTANT, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text),
    Column("pdf_size", BigInteger),
    Column("pdf_sha256", Text),
    Column("xml_size", BigInteger),
    Column("xml_sha256", Text),
    CheckConstraint(
        "(state = 'ready') = (pdf_sha256 IS NOT NULL AND xml_sha256 IS NOT NULL)", name="ready"
    ),
    # What is still to be rendered.
    Index("ix_documents_pending", "due_at", postgresql_where=text("state = 'pending'")),
)

attachments = Table(
    "attachments",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("account_id", Uuid, nullable=False),
    Column("invoice_id", Uuid, of_invoice()),
    Column("filename", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("state", stored(AttachmentState), nullable=False),
    Column("created_at", INSTANT, nullable=False),
    Column("completed_at", INSTANT),
    CheckConstraint("size > 0", name="size"),
    CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256"),
    CheckConstraint("(state = 'complete') = (completed_at IS NOT NULL)", name="complete"),
    Index("ix_attachments_account_id_id", "account_id", "id"),
    # Declared and never uploaded: cleared away after a day.
    Index("ix_attachments_declared", "created_at", postgresql_where=text("state = 'declared'")),
)

mapper.map_imperatively(Document, documents)
mapper.map_imperatively(Attachment, attachments)
