CREATE TABLE accounts (
    id UUID NOT NULL,
    country TEXT NOT NULL,
    time_zone TEXT NOT NULL,
    closed BOOLEAN NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_accounts PRIMARY KEY (id)
);

CREATE TABLE addons (
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    features JSONB NOT NULL,
    active BOOLEAN NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_addons PRIMARY KEY (id),
    CONSTRAINT uq_addons_code UNIQUE (code)
);

CREATE TABLE bundles (
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    tokens BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    currency TEXT NOT NULL,
    tax_category TEXT NOT NULL,
    expires_after_days INTEGER,
    active BOOLEAN NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_bundles PRIMARY KEY (id),
    CONSTRAINT ck_bundles_tokens CHECK (tokens > 0),
    CONSTRAINT ck_bundles_amount CHECK (amount >= 0),
    CONSTRAINT ck_bundles_expires_after_days CHECK (expires_after_days > 0),
    CONSTRAINT uq_bundles_code UNIQUE (code)
);

CREATE TABLE coupons (
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    percent NUMERIC(9, 6),
    amount BIGINT,
    currency TEXT,
    duration VARCHAR(40) NOT NULL,
    periods INTEGER,
    plan_ids UUID[] NOT NULL,
    max_redemptions INTEGER,
    max_per_account INTEGER NOT NULL,
    redeemed INTEGER NOT NULL,
    redeem_by TIMESTAMP WITH TIME ZONE,
    active BOOLEAN NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_coupons PRIMARY KEY (id),
    CONSTRAINT ck_coupons_value CHECK ((percent IS NULL) <> (amount IS NULL)),
    CONSTRAINT ck_coupons_percent CHECK (percent > 0 AND percent <= 100),
    CONSTRAINT ck_coupons_amount CHECK (amount IS NULL OR (amount > 0 AND currency IS NOT NULL)),
    CONSTRAINT ck_coupons_periods CHECK ((duration = 'repeating') = (periods IS NOT NULL)),
    CONSTRAINT ck_coupons_redeemed CHECK (redeemed >= 0 AND redeemed <= max_redemptions),
    CONSTRAINT uq_coupons_code UNIQUE (code),
    CONSTRAINT ck_coupons_couponduration CHECK (duration IN ('once', 'repeating', 'forever'))
);

CREATE TABLE invoice_states (
    invoice_id UUID NOT NULL,
    subscription_id UUID NOT NULL,
    account_id UUID NOT NULL,
    is_first BOOLEAN NOT NULL,
    paid BOOLEAN NOT NULL,
    dropped BOOLEAN NOT NULL,
    dunning BOOLEAN NOT NULL,
    exhausted TEXT,
    CONSTRAINT pk_invoice_states PRIMARY KEY (invoice_id),
    CONSTRAINT ck_invoice_states_exhausted CHECK (exhausted IN ('cancel', 'unpaid', 'pause'))
);

CREATE INDEX ix_invoice_states_subscription_id ON invoice_states (subscription_id);

CREATE TABLE meters (
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    grace_hours INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_meters PRIMARY KEY (id),
    CONSTRAINT ck_meters_grace_hours CHECK (grace_hours BETWEEN 0 AND 744),
    CONSTRAINT uq_meters_code UNIQUE (code)
);

CREATE TABLE payment_methods (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    is_default BOOLEAN NOT NULL,
    attached BOOLEAN NOT NULL,
    version INTEGER NOT NULL,
    CONSTRAINT pk_payment_methods PRIMARY KEY (id)
);

CREATE INDEX ix_payment_methods_account_id ON payment_methods (account_id);

CREATE TABLE products (
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_products PRIMARY KEY (id),
    CONSTRAINT uq_products_code UNIQUE (code)
);

CREATE TABLE stale_entitlements (
    account_id UUID NOT NULL,
    marked_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_stale_entitlements PRIMARY KEY (account_id, marked_at)
);

CREATE TABLE test_clocks (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    now TIMESTAMP WITH TIME ZONE NOT NULL,
    target TIMESTAMP WITH TIME ZONE NOT NULL,
    status VARCHAR(40) NOT NULL,
    revision INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    looks_again BOOLEAN NOT NULL,
    seen JSONB,
    seen_since TIMESTAMP WITH TIME ZONE,
    waiting_for TEXT[] NOT NULL,
    version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_test_clocks PRIMARY KEY (id),
    CONSTRAINT ck_test_clocks_target CHECK (now <= target),
    CONSTRAINT uq_test_clocks_account_id UNIQUE (account_id),
    CONSTRAINT ck_test_clocks_clockstatus CHECK (status IN ('ready', 'advancing'))
);

CREATE TABLE timeline (
    event_id UUID NOT NULL,
    name TEXT NOT NULL,
    account_id UUID NOT NULL,
    subscription_id UUID,
    subject UUID NOT NULL,
    sequence INTEGER NOT NULL,
    occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
    correlation_id TEXT NOT NULL,
    causation_id TEXT,
    data JSONB NOT NULL,
    CONSTRAINT pk_timeline PRIMARY KEY (event_id)
);

CREATE INDEX ix_timeline_subscription_id ON timeline (subscription_id, event_id) WHERE subscription_id IS NOT NULL;

CREATE TABLE usage_alerts (
    subscription_id UUID NOT NULL,
    feature TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    percent SMALLINT NOT NULL,
    CONSTRAINT pk_usage_alerts PRIMARY KEY (subscription_id, feature, period_start, percent)
);

CREATE TABLE usage_buckets (
    subscription_id UUID NOT NULL,
    meter_id UUID NOT NULL,
    bucket_start TIMESTAMP WITH TIME ZONE NOT NULL,
    total NUMERIC(38, 12) NOT NULL,
    count BIGINT NOT NULL,
    highest NUMERIC(30, 12),
    latest NUMERIC(30, 12),
    latest_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_usage_buckets PRIMARY KEY (subscription_id, meter_id, bucket_start),
    CONSTRAINT ck_usage_buckets_count CHECK (count >= 0)
);

CREATE TABLE usage_members (
    subscription_id UUID NOT NULL,
    meter_id UUID NOT NULL,
    bucket_start TIMESTAMP WITH TIME ZONE NOT NULL,
    member TEXT NOT NULL,
    CONSTRAINT pk_usage_members PRIMARY KEY (subscription_id, meter_id, bucket_start, member)
);

CREATE TABLE features (
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    type VARCHAR(40) NOT NULL,
    meter_id UUID,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_features PRIMARY KEY (id),
    CONSTRAINT ck_features_meter CHECK ((type = 'metered') = (meter_id IS NOT NULL)),
    CONSTRAINT uq_features_code UNIQUE (code),
    CONSTRAINT ck_features_featuretype CHECK (type IN ('boolean', 'limit', 'metered')),
    CONSTRAINT fk_features_meter_id FOREIGN KEY(meter_id) REFERENCES meters (id)
);

CREATE TABLE plans (
    id UUID NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    product_id UUID,
    features JSONB NOT NULL,
    trial_days INTEGER NOT NULL,
    trial_end_behavior VARCHAR(40) NOT NULL,
    trial_requires_payment_method BOOLEAN NOT NULL,
    dunning JSONB NOT NULL,
    status VARCHAR(40) NOT NULL,
    version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_plans PRIMARY KEY (id),
    CONSTRAINT ck_plans_trial_days CHECK (trial_days BETWEEN 0 AND 730),
    CONSTRAINT ck_plans_version CHECK (version >= 0),
    CONSTRAINT uq_plans_code UNIQUE (code),
    CONSTRAINT fk_plans_product_id FOREIGN KEY(product_id) REFERENCES products (id),
    CONSTRAINT ck_plans_trialendbehavior CHECK (trial_end_behavior IN ('cancel', 'pause', 'invoice')),
    CONSTRAINT ck_plans_planstatus CHECK (status IN ('draft', 'published', 'archived'))
);

CREATE TABLE test_clock_reports (
    clock_id UUID NOT NULL,
    service TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body JSONB NOT NULL,
    CONSTRAINT pk_test_clock_reports PRIMARY KEY (clock_id, service),
    CONSTRAINT fk_test_clock_reports_clock_id FOREIGN KEY(clock_id) REFERENCES test_clocks (id) ON DELETE CASCADE
);

CREATE TABLE token_orders (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    bundle_id UUID NOT NULL,
    tokens BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    currency TEXT NOT NULL,
    expires_after_days INTEGER,
    status VARCHAR(40) NOT NULL,
    version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_token_orders PRIMARY KEY (id),
    CONSTRAINT fk_token_orders_bundle_id FOREIGN KEY(bundle_id) REFERENCES bundles (id),
    CONSTRAINT ck_token_orders_orderstatus CHECK (status IN ('pending', 'granted', 'refunded', 'canceled'))
);

CREATE INDEX ix_token_orders_account_id ON token_orders (account_id, id);

CREATE TABLE usage_events (
    account_id UUID NOT NULL,
    id TEXT NOT NULL,
    meter_id UUID NOT NULL,
    subscription_id UUID NOT NULL,
    value NUMERIC(30, 12) NOT NULL,
    member TEXT,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    bucket_start TIMESTAMP WITH TIME ZONE NOT NULL,
    voided BOOLEAN DEFAULT false NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_usage_events PRIMARY KEY (account_id, id),
    CONSTRAINT fk_usage_events_meter_id FOREIGN KEY(meter_id) REFERENCES meters (id)
);

CREATE INDEX ix_usage_events_bucket ON usage_events (subscription_id, meter_id, bucket_start);

CREATE INDEX ix_usage_events_received_at ON usage_events (received_at);

CREATE TABLE prices (
    id UUID NOT NULL,
    plan_id UUID,
    addon_id UUID,
    currency TEXT NOT NULL,
    type VARCHAR(40) NOT NULL,
    interval_unit VARCHAR(40),
    interval_count SMALLINT NOT NULL,
    unit_amount NUMERIC(30, 12),
    tiers JSONB NOT NULL,
    tier_mode TEXT,
    package_size INTEGER,
    free_units INTEGER NOT NULL,
    meter_id UUID,
    aggregation VARCHAR(40),
    tax_behavior VARCHAR(40) NOT NULL,
    tax_category TEXT NOT NULL,
    account_id UUID,
    version INTEGER NOT NULL,
    active BOOLEAN NOT NULL,
    amount NUMERIC(30, 12) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_prices PRIMARY KEY (id),
    CONSTRAINT ck_prices_owner CHECK ((plan_id IS NULL) <> (addon_id IS NULL)),
    CONSTRAINT ck_prices_interval CHECK ((interval_unit IS NULL) = (type = 'one_off')),
    CONSTRAINT ck_prices_unit_amount CHECK ((unit_amount IS NULL) <> (tiers = '[]'::jsonb)),
    CONSTRAINT ck_prices_meter CHECK ((type = 'metered') = (meter_id IS NOT NULL)),
    CONSTRAINT ck_prices_amount CHECK (amount >= 0 AND (unit_amount IS NULL OR unit_amount >= 0)),
    CONSTRAINT ck_prices_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT ck_prices_tier_mode CHECK (tier_mode IN ('graduated', 'volume')),
    CONSTRAINT fk_prices_plan_id FOREIGN KEY(plan_id) REFERENCES plans (id),
    CONSTRAINT fk_prices_addon_id FOREIGN KEY(addon_id) REFERENCES addons (id),
    CONSTRAINT ck_prices_pricetype CHECK (type IN ('flat', 'per_unit', 'graduated', 'volume', 'package', 'metered', 'one_off')),
    CONSTRAINT ck_prices_intervalunit CHECK (interval_unit IN ('day', 'week', 'month', 'quarter', 'year')),
    CONSTRAINT fk_prices_meter_id FOREIGN KEY(meter_id) REFERENCES meters (id),
    CONSTRAINT ck_prices_aggregation CHECK (aggregation IN ('sum', 'count', 'max', 'latest', 'unique')),
    CONSTRAINT ck_prices_taxbehavior CHECK (tax_behavior IN ('exclusive', 'inclusive'))
);

CREATE INDEX ix_prices_addon_id ON prices (addon_id);

CREATE INDEX ix_prices_amount ON prices (currency, interval_unit, amount) WHERE active AND account_id IS NULL;

CREATE INDEX ix_prices_plan_id ON prices (plan_id);

CREATE TABLE token_grants (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    order_id UUID,
    granted BIGINT NOT NULL,
    remaining BIGINT NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_token_grants PRIMARY KEY (id),
    CONSTRAINT ck_token_grants_remaining CHECK (remaining BETWEEN 0 AND granted),
    CONSTRAINT uq_token_grants_order_id UNIQUE (order_id),
    CONSTRAINT fk_token_grants_order_id FOREIGN KEY(order_id) REFERENCES token_orders (id)
);

CREATE INDEX ix_token_grants_left ON token_grants (account_id, expires_at) WHERE remaining > 0;

CREATE TABLE trial_uses (
    account_id UUID NOT NULL,
    plan_id UUID NOT NULL,
    subscription_id UUID NOT NULL,
    CONSTRAINT pk_trial_uses PRIMARY KEY (account_id, plan_id),
    CONSTRAINT fk_trial_uses_plan_id FOREIGN KEY(plan_id) REFERENCES plans (id)
);

CREATE TABLE price_moves (
    id UUID NOT NULL,
    from_price_id UUID NOT NULL,
    to_price_id UUID NOT NULL,
    proration VARCHAR(40) NOT NULL,
    status VARCHAR(40) NOT NULL,
    total INTEGER NOT NULL,
    moved INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    last_id UUID,
    version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_price_moves PRIMARY KEY (id),
    CONSTRAINT fk_price_moves_from_price_id FOREIGN KEY(from_price_id) REFERENCES prices (id),
    CONSTRAINT fk_price_moves_to_price_id FOREIGN KEY(to_price_id) REFERENCES prices (id),
    CONSTRAINT ck_price_moves_proration CHECK (proration IN ('prorate_now', 'prorate_next', 'none', 'at_period_end')),
    CONSTRAINT ck_price_moves_movestatus CHECK (status IN ('running', 'done'))
);

CREATE INDEX ix_price_moves_running ON price_moves (id) WHERE status = 'running';

CREATE TABLE subscriptions (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    project_id UUID,
    plan_id UUID NOT NULL,
    price_id UUID NOT NULL,
    quantity INTEGER NOT NULL,
    items JSONB NOT NULL,
    currency TEXT NOT NULL,
    status VARCHAR(40) NOT NULL,
    billing VARCHAR(40) NOT NULL,
    time_zone TEXT NOT NULL,
    anchor TIMESTAMP WITH TIME ZONE NOT NULL,
    interval_unit VARCHAR(40) NOT NULL,
    interval_count SMALLINT NOT NULL,
    period_index INTEGER NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    period_end TIMESTAMP WITH TIME ZONE NOT NULL,
    basis_start TIMESTAMP WITH TIME ZONE NOT NULL,
    trial_end TIMESTAMP WITH TIME ZONE,
    trial_reminded BOOLEAN NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    cancel_at_period_end BOOLEAN NOT NULL,
    cancel_at TIMESTAMP WITH TIME ZONE,
    cancel_reason TEXT,
    cancel_with_credit BOOLEAN NOT NULL,
    canceled_at TIMESTAMP WITH TIME ZONE,
    pause_at_period_end BOOLEAN NOT NULL,
    paused_at TIMESTAMP WITH TIME ZONE,
    resumes_at TIMESTAMP WITH TIME ZONE,
    scheduled_change JSONB,
    discounts JSONB NOT NULL,
    payment_method_id UUID,
    latest_invoice_id UUID,
    due_at TIMESTAMP WITH TIME ZONE,
    parked_at TIMESTAMP WITH TIME ZONE,
    parked_reason TEXT,
    version INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_subscriptions PRIMARY KEY (id),
    CONSTRAINT ck_subscriptions_period CHECK (period_start < period_end),
    CONSTRAINT ck_subscriptions_basis CHECK (basis_start <= period_start),
    CONSTRAINT ck_subscriptions_quantity CHECK (quantity >= 1),
    CONSTRAINT ck_subscriptions_version CHECK (version >= 1),
    CONSTRAINT ck_subscriptions_trial CHECK (status <> 'trialing' OR trial_end IS NOT NULL),
    CONSTRAINT ck_subscriptions_canceled CHECK ((status = 'canceled') = (canceled_at IS NOT NULL)),
    CONSTRAINT ck_subscriptions_parked CHECK ((parked_at IS NULL) = (parked_reason IS NULL)),
    CONSTRAINT ck_subscriptions_parked_rests CHECK (due_at IS NULL OR parked_at IS NULL),
    CONSTRAINT fk_subscriptions_plan_id FOREIGN KEY(plan_id) REFERENCES plans (id),
    CONSTRAINT fk_subscriptions_price_id FOREIGN KEY(price_id) REFERENCES prices (id),
    CONSTRAINT ck_subscriptions_status CHECK (status IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'unpaid', 'paused', 'canceled')),
    CONSTRAINT ck_subscriptions_billing CHECK (billing IN ('anniversary', 'calendar')),
    CONSTRAINT ck_subscriptions_intervalunit CHECK (interval_unit IN ('day', 'week', 'month', 'quarter', 'year'))
);

CREATE INDEX ix_subscriptions_account_id ON subscriptions (account_id, id);

CREATE INDEX ix_subscriptions_due_at ON subscriptions (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX ix_subscriptions_parked ON subscriptions (id) WHERE parked_at IS NOT NULL;

CREATE INDEX ix_subscriptions_price_id ON subscriptions (price_id, id);

CREATE TABLE token_entries (
    id UUID NOT NULL,
    account_id UUID NOT NULL,
    grant_id UUID NOT NULL,
    kind TEXT NOT NULL,
    amount BIGINT NOT NULL,
    reason TEXT,
    debit_id UUID,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_token_entries PRIMARY KEY (id),
    CONSTRAINT ck_token_entries_kind CHECK (kind IN ('grant', 'debit', 'expiry', 'refund')),
    CONSTRAINT ck_token_entries_amount CHECK ((kind = 'grant') = (amount > 0) AND amount <> 0),
    CONSTRAINT fk_token_entries_grant_id FOREIGN KEY(grant_id) REFERENCES token_grants (id)
);

CREATE INDEX ix_token_entries_account_id ON token_entries (account_id, id);

CREATE TABLE billed_periods (
    subscription_id UUID NOT NULL,
    reason TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    period_end TIMESTAMP WITH TIME ZONE NOT NULL,
    event_id UUID NOT NULL,
    CONSTRAINT pk_billed_periods PRIMARY KEY (subscription_id, reason, period_start),
    CONSTRAINT ck_billed_periods_reason CHECK (reason IN ('start', 'cycle', 'resume')),
    CONSTRAINT ck_billed_periods_period CHECK (period_start < period_end),
    CONSTRAINT fk_billed_periods_subscription_id FOREIGN KEY(subscription_id) REFERENCES subscriptions (id)
);

CREATE TABLE redemptions (
    id UUID NOT NULL,
    coupon_id UUID NOT NULL,
    account_id UUID NOT NULL,
    subscription_id UUID NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_redemptions PRIMARY KEY (id),
    CONSTRAINT uq_redemptions_coupon_id_subscription_id UNIQUE (coupon_id, subscription_id),
    CONSTRAINT fk_redemptions_coupon_id FOREIGN KEY(coupon_id) REFERENCES coupons (id),
    CONSTRAINT fk_redemptions_subscription_id FOREIGN KEY(subscription_id) REFERENCES subscriptions (id)
);

CREATE INDEX ix_redemptions_account_id ON redemptions (account_id, coupon_id);

CREATE TABLE usage_windows (
    subscription_id UUID NOT NULL,
    item_id UUID NOT NULL,
    window_start TIMESTAMP WITH TIME ZONE NOT NULL,
    window_end TIMESTAMP WITH TIME ZONE NOT NULL,
    price_id UUID NOT NULL,
    used NUMERIC(38, 12) NOT NULL,
    billed BIGINT NOT NULL,
    CONSTRAINT pk_usage_windows PRIMARY KEY (subscription_id, item_id, window_start),
    CONSTRAINT ck_usage_windows_window CHECK (window_start < window_end),
    CONSTRAINT fk_usage_windows_subscription_id FOREIGN KEY(subscription_id) REFERENCES subscriptions (id),
    CONSTRAINT fk_usage_windows_price_id FOREIGN KEY(price_id) REFERENCES prices (id)
);
