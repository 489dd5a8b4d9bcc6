"""The migrations of the message path, as literal history."""

from alembic import op
from sqlalchemy import text

TABLES = """
CREATE TABLE outbox (
    id uuid NOT NULL,
    part smallint NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    aggregate_id uuid NOT NULL,
    account_id uuid NOT NULL,
    sequence integer NOT NULL,
    body bytea NOT NULL,
    headers jsonb,
    created_at timestamptz DEFAULT now() NOT NULL,
    sent_at timestamptz,
    refused_at timestamptz,
    error text,
    CONSTRAINT pk_outbox PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE INDEX ix_outbox_waiting ON outbox (part, position)
    WHERE sent_at IS NULL AND refused_at IS NULL;
CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;

CREATE TABLE inbox (
    consumer text NOT NULL,
    event_id uuid NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    received_at timestamptz DEFAULT now() NOT NULL,
    first_failed_at timestamptz,
    processed_at timestamptz,
    CONSTRAINT pk_inbox PRIMARY KEY (consumer, event_id)
) PARTITION BY RANGE (event_id);
CREATE TABLE inbox_default PARTITION OF inbox DEFAULT;

CREATE TABLE cursors (
    consumer text NOT NULL,
    aggregate_id uuid NOT NULL,
    last_sequence integer NOT NULL,
    CONSTRAINT pk_cursors PRIMARY KEY (consumer, aggregate_id)
);

CREATE TABLE early_events (
    consumer text NOT NULL,
    aggregate_id uuid NOT NULL,
    sequence integer NOT NULL,
    body bytea,
    received_at timestamptz DEFAULT now() NOT NULL,
    CONSTRAINT pk_early_events PRIMARY KEY (consumer, aggregate_id, sequence)
);
CREATE INDEX ix_early_events_received_at ON early_events (received_at);

CREATE TABLE dead_letters (
    id uuid NOT NULL,
    consumer text NOT NULL,
    event_id uuid,
    event_name text,
    account_id uuid,
    aggregate_id uuid,
    sequence integer,
    body bytea NOT NULL,
    headers jsonb NOT NULL,
    reason text NOT NULL,
    cause text NOT NULL,
    error text NOT NULL,
    traceback text,
    attempts integer NOT NULL,
    first_failed_at timestamptz NOT NULL,
    last_failed_at timestamptz NOT NULL,
    status text DEFAULT 'parked' NOT NULL,
    closed_at timestamptz,
    closed_by text,
    replaced_by uuid,
    CONSTRAINT pk_dead_letters PRIMARY KEY (id),
    CONSTRAINT ck_dead_letters_status
        CHECK (status IN ('parked', 'replayed', 'edited', 'discarded')),
    CONSTRAINT ck_dead_letters_closed_at CHECK ((status = 'parked') = (closed_at IS NULL))
);
CREATE UNIQUE INDEX uq_dead_letters_open ON dead_letters (consumer, event_id)
    WHERE status = 'parked';
CREATE INDEX ix_dead_letters_status ON dead_letters (status, id);
"""


def create_messaging_tables() -> None:
    """Outbox, inbox, cursors, early events and dead letters."""
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


PARTITIONS_WITHOUT_REFUSED = """
SELECT c.oid::regclass::text FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid
 WHERE h.inhparent = 'outbox'::regclass
   AND NOT EXISTS (SELECT 1 FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indexrelid
                    WHERE x.indrelid = c.oid AND i.inhparent = 'ix_outbox_refused'::regclass)
"""


def index_refused_events() -> None:
    """An index of what the broker refused, made beside a running release.

    Each partition's is built without holding up its writers and then attached; one that a day
    gets meanwhile has it from its parent. Begun anew, it goes on where it stopped.
    """
    where = "(refused_at) WHERE refused_at IS NOT NULL"
    context = op.get_context()
    with context.autocommit_block():
        op.execute(f"CREATE INDEX IF NOT EXISTS ix_outbox_refused ON ONLY outbox {where}")
        for partition in list(op.get_bind().scalars(text(PARTITIONS_WITHOUT_REFUSED))):
            schema, _, table = partition.rpartition(".")
            index = f"{table}_refused_at_idx"
            at = f"{schema}.{index}" if schema else index
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {at}")
            op.execute(f"CREATE INDEX CONCURRENTLY {index} ON {partition} {where}")
            op.execute(f"ALTER INDEX ix_outbox_refused ATTACH PARTITION {at}")


def forget_index_of_refused_events() -> None:
    op.execute("DROP INDEX ix_outbox_refused")


def drop_messaging_tables() -> None:
    for table in ("dead_letters", "early_events", "cursors", "inbox", "outbox"):
        op.execute(f"DROP TABLE {table}")
