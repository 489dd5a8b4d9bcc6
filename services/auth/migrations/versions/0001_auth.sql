CREATE TABLE users (
    id UUID NOT NULL,
    home_account_id UUID NOT NULL,
    password_hash TEXT,
    status VARCHAR(40) NOT NULL,
    staff_role VARCHAR(40),
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_users PRIMARY KEY (id),
    CONSTRAINT ck_users_version CHECK (version >= 0),
    CONSTRAINT ck_users_erased CHECK (status <> 'erased' OR (password_hash IS NULL AND staff_role IS NULL)),
    CONSTRAINT ck_users_userstatus CHECK (status IN ('pending', 'active', 'suspended', 'erased')),
    CONSTRAINT ck_users_staffrole CHECK (staff_role IN ('support', 'finance', 'admin'))
);
CREATE TABLE personal_details (
    user_id UUID NOT NULL,
    email TEXT NOT NULL,
    address_key TEXT NOT NULL,
    full_name TEXT,
    CONSTRAINT pk_personal_details PRIMARY KEY (user_id),
    CONSTRAINT fk_personal_details_user_id FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT uq_personal_details_address_key UNIQUE (address_key)
);
CREATE INDEX ix_personal_details_address_prefix ON personal_details (address_key text_pattern_ops);
CREATE TABLE accounts (
    id UUID NOT NULL,
    name TEXT,
    country TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    status VARCHAR(40) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    closed_at TIMESTAMP WITH TIME ZONE,
    version INTEGER NOT NULL,
    CONSTRAINT pk_accounts PRIMARY KEY (id),
    CONSTRAINT ck_accounts_country CHECK (country ~ '^[A-Z]{2}$'),
    CONSTRAINT ck_accounts_version CHECK (version >= 0),
    CONSTRAINT ck_accounts_closed CHECK ((status = 'closed') = (closed_at IS NOT NULL)),
    CONSTRAINT ck_accounts_accountstatus CHECK (status IN ('open', 'closed'))
);
CREATE TABLE memberships (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    user_id UUID NOT NULL,
    role VARCHAR(40) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_memberships PRIMARY KEY (id),
    CONSTRAINT uq_memberships_account_id_user_id UNIQUE (account_id, user_id),
    CONSTRAINT fk_memberships_account_id FOREIGN KEY(account_id) REFERENCES accounts (id),
    CONSTRAINT fk_memberships_user_id FOREIGN KEY(user_id) REFERENCES users (id),
    CONSTRAINT ck_memberships_role CHECK (role IN ('owner', 'admin', 'billing', 'member'))
);
CREATE INDEX ix_memberships_user_id ON memberships (user_id, id);
CREATE TABLE invitations (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    email TEXT,
    role VARCHAR(40) NOT NULL,
    token_hash BYTEA NOT NULL,
    invited_by UUID NOT NULL,
    status VARCHAR(40) NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_invitations PRIMARY KEY (id),
    CONSTRAINT ck_invitations_over CHECK (status = 'pending' OR email IS NULL),
    CONSTRAINT fk_invitations_account_id FOREIGN KEY(account_id) REFERENCES accounts (id),
    CONSTRAINT ck_invitations_role CHECK (role IN ('owner', 'admin', 'billing', 'member')),
    CONSTRAINT uq_invitations_token_hash UNIQUE (token_hash),
    CONSTRAINT fk_invitations_invited_by FOREIGN KEY(invited_by) REFERENCES users (id),
    CONSTRAINT ck_invitations_invitationstatus CHECK (status IN ('pending', 'accepted', 'withdrawn', 'lapsed'))
);
CREATE INDEX ix_invitations_account_id ON invitations (account_id, id);
CREATE TABLE projects (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    status VARCHAR(40) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_projects PRIMARY KEY (id),
    CONSTRAINT uq_projects_account_id_name UNIQUE (account_id, name),
    CONSTRAINT ck_projects_version CHECK (version >= 0),
    CONSTRAINT fk_projects_account_id FOREIGN KEY(account_id) REFERENCES accounts (id),
    CONSTRAINT ck_projects_projectstatus CHECK (status IN ('draft', 'active', 'archived'))
);
CREATE INDEX ix_projects_account_id ON projects (account_id, id);
CREATE TABLE sessions (
    id UUID NOT NULL,
    user_id UUID NOT NULL,
    signed_in_to UUID NOT NULL,
    ip TEXT,
    user_agent TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_used_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    revoked_because TEXT,
    CONSTRAINT pk_sessions PRIMARY KEY (id),
    CONSTRAINT ck_sessions_revoked CHECK ((revoked_at IS NULL) = (revoked_because IS NULL)),
    CONSTRAINT fk_sessions_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE INDEX ix_sessions_expires_at ON sessions (expires_at);
CREATE INDEX ix_sessions_user_id ON sessions (user_id, id);
CREATE TABLE refresh_tokens (
    token_hash BYTEA NOT NULL,
    session_id UUID NOT NULL,
    issued_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_refresh_tokens PRIMARY KEY (token_hash),
    CONSTRAINT ck_refresh_tokens_hash CHECK (octet_length(token_hash) = 32),
    CONSTRAINT fk_refresh_tokens_session_id FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE INDEX ix_refresh_tokens_session_id ON refresh_tokens (session_id);
CREATE TABLE mailed_tokens (
    token_hash BYTEA NOT NULL,
    user_id UUID NOT NULL,
    purpose VARCHAR(40) NOT NULL,
    email TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
    used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_mailed_tokens PRIMARY KEY (token_hash),
    CONSTRAINT ck_mailed_tokens_hash CHECK (octet_length(token_hash) = 32),
    CONSTRAINT fk_mailed_tokens_user_id FOREIGN KEY(user_id) REFERENCES users (id),
    CONSTRAINT ck_mailed_tokens_purpose CHECK (purpose IN ('verify_email', 'reset_password', 'change_email'))
);
CREATE INDEX ix_mailed_tokens_expires_at ON mailed_tokens (expires_at);
CREATE INDEX ix_mailed_tokens_user_id ON mailed_tokens (user_id, purpose);
CREATE TABLE totps (
    user_id UUID NOT NULL,
    secret TEXT NOT NULL,
    confirmed_at TIMESTAMP WITH TIME ZONE,
    last_step INTEGER NOT NULL,
    backup_hashes TEXT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_totps PRIMARY KEY (user_id),
    CONSTRAINT fk_totps_user_id FOREIGN KEY(user_id) REFERENCES users (id)
);
CREATE TABLE api_keys (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    key_hash BYTEA NOT NULL,
    role VARCHAR(40) NOT NULL,
    scopes TEXT[] NOT NULL,
    created_by UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    last_used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT ck_api_keys_hash CHECK (octet_length(key_hash) = 32),
    CONSTRAINT fk_api_keys_account_id FOREIGN KEY(account_id) REFERENCES accounts (id),
    CONSTRAINT uq_api_keys_key_hash UNIQUE (key_hash),
    CONSTRAINT ck_api_keys_role CHECK (role IN ('owner', 'admin', 'billing', 'member')),
    CONSTRAINT fk_api_keys_created_by FOREIGN KEY(created_by) REFERENCES users (id)
);
CREATE INDEX ix_api_keys_account_id ON api_keys (account_id, id);
CREATE TABLE signing_keys (
    kid TEXT NOT NULL,
    private_jwk JSONB NOT NULL,
    signs_from TIMESTAMP WITH TIME ZONE NOT NULL,
    published_until TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_signing_keys PRIMARY KEY (kid)
);
CREATE TABLE mails (
    id UUID NOT NULL,
    user_id UUID,
    address TEXT,
    template VARCHAR(40) NOT NULL,
    facts JSONB NOT NULL,
    dated TIMESTAMP WITH TIME ZONE NOT NULL,
    status VARCHAR(40) NOT NULL,
    attempts INTEGER NOT NULL,
    next_attempt_at TIMESTAMP WITH TIME ZONE NOT NULL,
    sent_at TIMESTAMP WITH TIME ZONE,
    last_error TEXT,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_mails PRIMARY KEY (id),
    CONSTRAINT ck_mails_attempts CHECK (attempts >= 0),
    CONSTRAINT ck_mails_wiped CHECK (status = 'waiting' OR (address IS NULL AND facts = '{}')),
    CONSTRAINT ck_mails_sent CHECK ((status = 'sent') = (sent_at IS NOT NULL)),
    CONSTRAINT fk_mails_user_id FOREIGN KEY(user_id) REFERENCES users (id),
    CONSTRAINT ck_mails_template CHECK (template IN ('verify_email', 'reset_password', 'password_changed', 'second_factor_changed', 'change_email', 'address_changed', 'invitation', 'invoice_paid', 'payment_failed', 'payment_action_required', 'card_needed', 'dunning_exhausted', 'trial_will_end', 'subscription_canceled', 'credit_note_issued')),
    CONSTRAINT ck_mails_mailstatus CHECK (status IN ('waiting', 'sent', 'failed', 'dropped'))
);
CREATE INDEX ix_mails_created_at ON mails (created_at);
CREATE INDEX ix_mails_user_id ON mails (user_id);
CREATE INDEX ix_mails_waiting ON mails (id, next_attempt_at) WHERE status = 'waiting';
CREATE TABLE settled_invoices (
    invoice_id UUID NOT NULL,
    account_id UUID NOT NULL,
    settled_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_settled_invoices PRIMARY KEY (invoice_id)
);
CREATE INDEX ix_settled_invoices_settled_at ON settled_invoices (settled_at);
