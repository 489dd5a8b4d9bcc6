CREATE TABLE account_credits (
    account_id UUID NOT NULL,
    currency TEXT NOT NULL,
    balance BIGINT NOT NULL,
    CONSTRAINT pk_account_credits PRIMARY KEY (account_id, currency),
    CONSTRAINT ck_account_credits_balance CHECK (balance >= 0)
);

CREATE TABLE documents (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    subject VARCHAR(40) NOT NULL,
    state VARCHAR(40) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT,
    pdf_size BIGINT,
    pdf_sha256 TEXT,
    xml_size BIGINT,
    xml_sha256 TEXT,
    CONSTRAINT pk_documents PRIMARY KEY (id),
    CONSTRAINT ck_documents_ready CHECK ((state = 'ready') = (pdf_sha256 IS NOT NULL AND xml_sha256 IS NOT NULL)),
    CONSTRAINT ck_documents_subject CHECK (subject IN ('invoice', 'credit_note')),
    CONSTRAINT ck_documents_documentstate CHECK (state IN ('pending', 'ready', 'failed'))
);
CREATE INDEX ix_documents_pending ON documents (due_at) WHERE state = 'pending';

CREATE TABLE exchange_rates (
    id UUID NOT NULL,
    base TEXT NOT NULL,
    quote TEXT NOT NULL,
    rate NUMERIC(24, 12) NOT NULL,
    "on" DATE NOT NULL,
    source TEXT NOT NULL,
    CONSTRAINT pk_exchange_rates PRIMARY KEY (id),
    CONSTRAINT uq_exchange_rates_base_quote_on UNIQUE (base, quote, "on"),
    CONSTRAINT ck_exchange_rates_rate CHECK (rate > 0),
    CONSTRAINT ck_exchange_rates_currencies CHECK (base <> quote)
);

CREATE TABLE legal_entities (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    country TEXT NOT NULL,
    vat_id TEXT,
    tax_number TEXT,
    address JSONB NOT NULL,
    email TEXT,
    iban TEXT,
    bic TEXT,
    accounting_currency TEXT NOT NULL,
    small_business BOOLEAN NOT NULL,
    payment_terms_days INTEGER NOT NULL,
    draft_hours INTEGER NOT NULL,
    reminder_days JSONB NOT NULL,
    is_default BOOLEAN NOT NULL,
    branding JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_legal_entities PRIMARY KEY (id),
    CONSTRAINT ck_legal_entities_country CHECK (country ~ '^[A-Z]{2}$'),
    CONSTRAINT ck_legal_entities_accounting_currency CHECK (accounting_currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_legal_entities_payment_terms_days CHECK (payment_terms_days BETWEEN 0 AND 365),
    CONSTRAINT ck_legal_entities_draft_hours CHECK (draft_hours BETWEEN 0 AND 240)
);
CREATE UNIQUE INDEX uq_legal_entities_default ON legal_entities (is_default) WHERE is_default;

CREATE TABLE tax_rates (
    id UUID NOT NULL,
    country TEXT NOT NULL,
    category TEXT NOT NULL,
    rate NUMERIC(7, 4) NOT NULL,
    valid_from DATE NOT NULL,
    valid_to DATE,
    source TEXT NOT NULL,
    CONSTRAINT pk_tax_rates PRIMARY KEY (id),
    CONSTRAINT ck_tax_rates_country CHECK (country ~ '^[A-Z]{2}$'),
    CONSTRAINT ck_tax_rates_rate CHECK (rate >= 0 AND rate < 100),
    CONSTRAINT ck_tax_rates_validity CHECK (valid_to > valid_from),
    CONSTRAINT ex_tax_rates_validity EXCLUDE USING gist (country WITH =, category WITH =, daterange(valid_from, valid_to) WITH &&)
);

CREATE TABLE upcoming (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    currency TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    period_end TIMESTAMP WITH TIME ZONE NOT NULL,
    charges JSONB NOT NULL,
    discounts JSONB NOT NULL,
    ended BOOLEAN NOT NULL,
    CONSTRAINT pk_upcoming PRIMARY KEY (id)
);

CREATE TABLE accounts (
    account_id UUID NOT NULL,
    country TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    legal_entity_id UUID,
    name TEXT,
    address JSONB NOT NULL,
    email TEXT,
    vat_id TEXT,
    language TEXT NOT NULL,
    purchase_order TEXT,
    exemption_reason TEXT,
    version INTEGER NOT NULL,
    CONSTRAINT pk_accounts PRIMARY KEY (account_id),
    CONSTRAINT fk_accounts_legal_entity_id FOREIGN KEY(legal_entity_id) REFERENCES legal_entities (id)
);

CREATE TABLE invoices (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    legal_entity_id UUID NOT NULL,
    subscription_id UUID,
    billing_reason TEXT NOT NULL,
    billing_key TEXT,
    currency TEXT NOT NULL,
    series TEXT NOT NULL,
    status VARCHAR(40) NOT NULL,
    number TEXT,
    subtotal BIGINT NOT NULL,
    discount BIGINT NOT NULL,
    net BIGINT NOT NULL,
    tax BIGINT NOT NULL,
    taxes JSONB NOT NULL,
    total BIGINT NOT NULL,
    credit_applied BIGINT NOT NULL,
    amount_paid BIGINT NOT NULL,
    amount_credited BIGINT NOT NULL,
    amount_refunded BIGINT NOT NULL,
    bill_to JSONB NOT NULL,
    seller JSONB NOT NULL,
    memo TEXT,
    basis JSONB NOT NULL,
    payment_terms_days INTEGER,
    supplied_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finalizes_at TIMESTAMP WITH TIME ZONE,
    reminds_at TIMESTAMP WITH TIME ZONE,
    issued_at TIMESTAMP WITH TIME ZONE,
    due_at TIMESTAMP WITH TIME ZONE,
    paid_at TIMESTAMP WITH TIME ZONE,
    closed_at TIMESTAMP WITH TIME ZONE,
    collect_automatically BOOLEAN NOT NULL,
    payment_method_id UUID,
    dunning JSONB NOT NULL,
    accounting_currency TEXT,
    exchange_rate NUMERIC(24, 12),
    exchange_rate_on DATE,
    accounting_total BIGINT,
    accounting_tax BIGINT,
    search_text TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_invoices PRIMARY KEY (id),
    CONSTRAINT uq_invoices_legal_entity_id_number UNIQUE (legal_entity_id, number),
    CONSTRAINT uq_invoices_billing_key UNIQUE (billing_key),
    CONSTRAINT ck_invoices_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_invoices_billing_reason CHECK (billing_reason IN ('subscription_start', 'subscription_cycle', 'subscription_change', 'subscription_cancel', 'manual')),
    CONSTRAINT ck_invoices_sums CHECK (subtotal - discount = net AND net + tax = total),
    CONSTRAINT ck_invoices_total CHECK (total >= 0),
    CONSTRAINT ck_invoices_reminds_at CHECK (reminds_at IS NULL OR status = 'open'),
    CONSTRAINT ck_invoices_credit_applied CHECK (credit_applied BETWEEN 0 AND total),
    CONSTRAINT ck_invoices_amount_paid CHECK (amount_paid BETWEEN 0 AND total - credit_applied),
    CONSTRAINT ck_invoices_amount_credited CHECK (amount_credited BETWEEN 0 AND credit_applied + amount_paid),
    CONSTRAINT ck_invoices_amount_refunded CHECK (amount_refunded BETWEEN 0 AND least(amount_credited, amount_paid)),
    CONSTRAINT ck_invoices_payment_terms_days CHECK (payment_terms_days BETWEEN 0 AND 365),
    CONSTRAINT ck_invoices_finalized CHECK ((status = 'draft') = (number IS NULL) AND (status = 'draft') = (issued_at IS NULL) AND (status = 'draft') = (due_at IS NULL)),
    CONSTRAINT ck_invoices_paid CHECK ((status = 'paid') = (paid_at IS NOT NULL) AND (status <> 'paid' OR amount_paid = total - credit_applied)),
    CONSTRAINT fk_invoices_legal_entity_id FOREIGN KEY(legal_entity_id) REFERENCES legal_entities (id),
    CONSTRAINT ck_invoices_status CHECK (status IN ('draft', 'open', 'paid', 'void', 'uncollectible'))
);
CREATE INDEX ix_invoices_account_id_id ON invoices (account_id, id);
CREATE INDEX ix_invoices_finalizes_at ON invoices (finalizes_at) WHERE finalizes_at IS NOT NULL;
CREATE INDEX ix_invoices_issued_at_id ON invoices (issued_at, id) WHERE issued_at IS NOT NULL;
CREATE INDEX ix_invoices_reminds_at ON invoices (reminds_at) WHERE reminds_at IS NOT NULL;
CREATE INDEX ix_invoices_search_text ON invoices USING gin (search_text gin_trgm_ops);
CREATE INDEX ix_invoices_subscription_id_id ON invoices (subscription_id, id);

CREATE TABLE number_series (
    id UUID NOT NULL,
    legal_entity_id UUID NOT NULL,
    series TEXT NOT NULL,
    pattern TEXT NOT NULL,
    last BIGINT NOT NULL,
    CONSTRAINT pk_number_series PRIMARY KEY (id),
    CONSTRAINT uq_number_series_legal_entity_id_series UNIQUE (legal_entity_id, series),
    CONSTRAINT ck_number_series_last CHECK (last >= 0),
    CONSTRAINT fk_number_series_legal_entity_id FOREIGN KEY(legal_entity_id) REFERENCES legal_entities (id)
);

CREATE TABLE account_credit_entries (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    currency TEXT NOT NULL,
    kind VARCHAR(40) NOT NULL,
    amount BIGINT NOT NULL,
    balance_after BIGINT NOT NULL,
    invoice_id UUID,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    note TEXT,
    CONSTRAINT pk_account_credit_entries PRIMARY KEY (id),
    CONSTRAINT ck_account_credit_entries_balance_after CHECK (balance_after >= 0 AND amount <> 0),
    CONSTRAINT ck_account_credit_entries_creditkind CHECK (kind IN ('carried_over', 'applied', 'returned', 'overpaid', 'credit_note', 'granted')),
    CONSTRAINT fk_account_credit_entries_invoice_id FOREIGN KEY(invoice_id) REFERENCES invoices (id) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX ix_account_credit_entries_account_id_id ON account_credit_entries (account_id, id);

CREATE TABLE attachments (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    invoice_id UUID,
    filename TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    state VARCHAR(40) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    completed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_attachments PRIMARY KEY (id),
    CONSTRAINT ck_attachments_size CHECK (size > 0),
    CONSTRAINT ck_attachments_sha256 CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    CONSTRAINT ck_attachments_complete CHECK ((state = 'complete') = (completed_at IS NOT NULL)),
    CONSTRAINT fk_attachments_invoice_id FOREIGN KEY(invoice_id) REFERENCES invoices (id) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT ck_attachments_attachmentstate CHECK (state IN ('declared', 'complete'))
);
CREATE INDEX ix_attachments_account_id_id ON attachments (account_id, id);
CREATE INDEX ix_attachments_declared ON attachments (created_at) WHERE state = 'declared';

CREATE TABLE credit_notes (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    subscription_id UUID,
    legal_entity_id UUID NOT NULL,
    number TEXT NOT NULL,
    invoice_number TEXT NOT NULL,
    currency TEXT NOT NULL,
    reason TEXT NOT NULL,
    settle VARCHAR(40) NOT NULL,
    net BIGINT NOT NULL,
    tax BIGINT NOT NULL,
    taxes JSONB NOT NULL,
    total BIGINT NOT NULL,
    refund BIGINT NOT NULL,
    credit BIGINT NOT NULL,
    bill_to JSONB NOT NULL,
    seller JSONB NOT NULL,
    issued_at TIMESTAMP WITH TIME ZONE NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_credit_notes PRIMARY KEY (id),
    CONSTRAINT uq_credit_notes_legal_entity_id_number UNIQUE (legal_entity_id, number),
    CONSTRAINT ck_credit_notes_total CHECK (net + tax = total AND total > 0),
    CONSTRAINT ck_credit_notes_settled CHECK (refund >= 0 AND credit >= 0 AND refund + credit = total),
    CONSTRAINT fk_credit_notes_invoice_id FOREIGN KEY(invoice_id) REFERENCES invoices (id),
    CONSTRAINT fk_credit_notes_legal_entity_id FOREIGN KEY(legal_entity_id) REFERENCES legal_entities (id),
    CONSTRAINT ck_credit_notes_settle CHECK (settle IN ('refund', 'credit'))
);
CREATE INDEX ix_credit_notes_account_id_id ON credit_notes (account_id, id);
CREATE INDEX ix_credit_notes_invoice_id ON credit_notes (invoice_id);

CREATE TABLE invoice_lines (
    id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    position INTEGER NOT NULL,
    subscription_id UUID,
    price_id UUID,
    kind TEXT NOT NULL,
    description TEXT NOT NULL,
    quantity NUMERIC NOT NULL,
    unit_amount NUMERIC NOT NULL,
    amount BIGINT NOT NULL,
    discount BIGINT NOT NULL,
    subtotal BIGINT NOT NULL,
    net BIGINT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    period_end TIMESTAMP WITH TIME ZONE NOT NULL,
    tax_behavior TEXT NOT NULL,
    tax_category TEXT NOT NULL,
    tax_code TEXT NOT NULL,
    tax_rate NUMERIC(7, 4) NOT NULL,
    why JSONB NOT NULL,
    CONSTRAINT pk_invoice_lines PRIMARY KEY (id),
    CONSTRAINT uq_invoice_lines_invoice_id_position UNIQUE (invoice_id, position),
    CONSTRAINT ck_invoice_lines_position CHECK (position >= 1),
    CONSTRAINT ck_invoice_lines_tax_behavior CHECK (tax_behavior IN ('exclusive', 'inclusive')),
    CONSTRAINT ck_invoice_lines_tax_code CHECK (tax_code IN ('S', 'Z', 'E', 'AE', 'G')),
    CONSTRAINT ck_invoice_lines_tax_rate CHECK ((tax_code = 'S') = (tax_rate > 0)),
    CONSTRAINT ck_invoice_lines_period CHECK (period_end >= period_start),
    CONSTRAINT fk_invoice_lines_invoice_id FOREIGN KEY(invoice_id) REFERENCES invoices (id)
);

CREATE TABLE pending_charges (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    subscription_id UUID NOT NULL,
    currency TEXT NOT NULL,
    charges JSONB NOT NULL,
    discounts JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    invoice_id UUID,
    CONSTRAINT pk_pending_charges PRIMARY KEY (id),
    CONSTRAINT fk_pending_charges_invoice_id FOREIGN KEY(invoice_id) REFERENCES invoices (id) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX ix_pending_charges_waiting ON pending_charges (subscription_id) WHERE invoice_id IS NULL;

CREATE TABLE received_payments (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    invoice_id UUID NOT NULL,
    means VARCHAR(40) NOT NULL,
    amount BIGINT NOT NULL,
    applied BIGINT NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    reference TEXT,
    CONSTRAINT pk_received_payments PRIMARY KEY (id),
    CONSTRAINT ck_received_payments_amount CHECK (amount > 0 AND applied BETWEEN 0 AND amount),
    CONSTRAINT fk_received_payments_invoice_id FOREIGN KEY(invoice_id) REFERENCES invoices (id) DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT ck_received_payments_means CHECK (means IN ('provider', 'offline'))
);
CREATE INDEX ix_received_payments_invoice_id ON received_payments (invoice_id);

CREATE TABLE credit_note_lines (
    id UUID NOT NULL,
    credit_note_id UUID NOT NULL,
    invoice_line_id UUID NOT NULL,
    position INTEGER NOT NULL,
    description TEXT NOT NULL,
    net BIGINT NOT NULL,
    tax_code TEXT NOT NULL,
    tax_rate NUMERIC(7, 4) NOT NULL,
    CONSTRAINT pk_credit_note_lines PRIMARY KEY (id),
    CONSTRAINT uq_credit_note_lines_credit_note_id_position UNIQUE (credit_note_id, position),
    CONSTRAINT fk_credit_note_lines_credit_note_id FOREIGN KEY(credit_note_id) REFERENCES credit_notes (id),
    CONSTRAINT fk_credit_note_lines_invoice_line_id FOREIGN KEY(invoice_line_id) REFERENCES invoice_lines (id)
);


