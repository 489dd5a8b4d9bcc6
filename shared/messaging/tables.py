"""The tables of the message path, in every service's own schema."""

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB


def add_messaging_tables(metadata: MetaData) -> None:
    """Declare them. Outbox and inbox are partitioned by day, by the time in the UUIDv7 id."""
    moment = DateTime(timezone=True)
    outbox = Table(
        "outbox",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("part", SmallInteger, nullable=False),
        Column("position", BigInteger, Identity(always=True), nullable=False),
        Column("exchange", Text, nullable=False),
        Column("routing_key", Text, nullable=False),
        Column("aggregate_id", Uuid, nullable=False),
        Column("account_id", Uuid, nullable=False),
        Column("sequence", Integer, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("headers", JSONB(none_as_null=True)),
        Column("created_at", moment, nullable=False, server_default=func.now()),
        Column("sent_at", moment),
        Column("refused_at", moment),
        Column("error", Text),
        # The relay reads what waits in its partitions, oldest first, and nothing else.
        Index(
            "ix_outbox_waiting",
            "part",
            "position",
            postgresql_where=text("sent_at IS NULL AND refused_at IS NULL"),
        ),
        # The relay offers again what was refused, and staff are shown it: a few rows, if any.
        Index("ix_outbox_refused", "refused_at", postgresql_where=text("refused_at IS NOT NULL")),
        postgresql_partition_by="RANGE (id)",
    )
    inbox = Table(
        "inbox",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("event_id", Uuid, primary_key=True),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("received_at", moment, nullable=False, server_default=func.now()),
        Column("first_failed_at", moment),
        # Null while nothing has come of it: only its attempts are counted so far.
        Column("processed_at", moment),
        postgresql_partition_by="RANGE (event_id)",
    )
    for table in (outbox, inbox):
        # Takes what no daily partition covers, so that an insert never fails for want of one.
        default = f"CREATE TABLE %(schema)s.{table.name}_default PARTITION OF %(fullname)s DEFAULT"
        event.listen(table, "after_create", DDL(default))  # type: ignore[no-untyped-call]
    Table(
        "cursors",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("aggregate_id", Uuid, primary_key=True),
        Column("last_sequence", Integer, nullable=False),
    )
    Table(
        "early_events",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("aggregate_id", Uuid, primary_key=True),
        Column("sequence", Integer, primary_key=True),
        # Null for an event that was discarded: it only moves the cursor when its turn comes.
        Column("body", LargeBinary),
        Column("received_at", moment, nullable=False, server_default=func.now()),
        # The sweep asks which have waited long.
        Index("ix_early_events_received_at", "received_at"),
    )
    Table(
        "dead_letters",
        metadata,
        Column("id", Uuid, primary_key=True),
        Column("consumer", Text, nullable=False),
        Column("event_id", Uuid),
        Column("event_name", Text),
        Column("account_id", Uuid),
        Column("aggregate_id", Uuid),
        Column("sequence", Integer),
        Column("body", LargeBinary, nullable=False),
        Column("headers", JSONB, nullable=False),
        Column("reason", Text, nullable=False),
        # What many letters have in common: the kind of error and where it was raised.
        Column("cause", Text, nullable=False),
        Column("error", Text, nullable=False),
        Column("traceback", Text),
        Column("attempts", Integer, nullable=False),
        Column("first_failed_at", moment, nullable=False),
        Column("last_failed_at", moment, nullable=False),
        Column("status", Text, nullable=False, server_default="parked"),
        Column("closed_at", moment),
        Column("closed_by", Text),
        # The id under which an edited copy was sent.
        Column("replaced_by", Uuid),
        CheckConstraint("status IN ('parked', 'replayed', 'edited', 'discarded')", name="status"),
        CheckConstraint("(status = 'parked') = (closed_at IS NULL)", name="closed_at"),
        # One open letter per handler and event, however often it comes.
        Index(
            "uq_dead_letters_open",
            "consumer",
            "event_id",
            unique=True,
            postgresql_where=text("status = 'parked'"),
        ),
        # The list of what waits for a person, newest first, and its count by cause.
        Index("ix_dead_letters_status", "status", "id"),
    )
