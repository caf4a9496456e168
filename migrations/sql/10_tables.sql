-- Tables of migration 0001. Times are timestamptz by the database's clock; ids of jobs and assets are UUIDv7.

CREATE TABLE tenants (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    name text NOT NULL,
    max_open integer CHECK (max_open >= 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE api_keys (
    id text PRIMARY KEY CHECK (length(id) = 12),
    tenant_id text NOT NULL REFERENCES tenants,
    name text NOT NULL,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    scopes text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_keys_tenant ON api_keys (tenant_id);

CREATE TABLE ws_tickets (
    ticket_sha256 bytea PRIMARY KEY CHECK (octet_length(ticket_sha256) = 32),
    tenant_id text NOT NULL REFERENCES tenants,
    key_id text NOT NULL REFERENCES api_keys,
    scopes text[] NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ws_tickets_expiry ON ws_tickets (expires_at);

-- Open jobs of a tenant ('*': of all), in shards so that submits do not queue up behind one row. Only sums mean
-- something.
CREATE TABLE tenant_open (
    tenant_id text NOT NULL,
    shard smallint NOT NULL,
    n integer NOT NULL,
    PRIMARY KEY (tenant_id, shard)
) WITH (fillfactor = 50);

-- No foreign key to tenants: its check would share-lock one hot row in every submit. fw_submit looks the tenant up.
CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    tenant_id text NOT NULL,
    kind text NOT NULL,
    model text,
    state text NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -100 AND 100),
    event_seq bigint NOT NULL DEFAULT 0,
    input jsonb NOT NULL,
    params jsonb NOT NULL,
    adjusted jsonb NOT NULL DEFAULT '[]',
    request jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    webhook text,
    assets uuid[] NOT NULL DEFAULT '{}',
    retry_of uuid,
    output_ttl_s double precision NOT NULL CHECK (output_ttl_s > 0),
    run_at timestamptz,
    start_deadline timestamptz,
    result_artifact uuid,
    error_code text,
    error_message text,
    error_field text,
    cancel_requested_at timestamptz,
    cancel_reason text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    deleted_at timestamptz,
    pruned_at timestamptz,
    sweep_at timestamptz,
    CONSTRAINT finished_iff_terminal
        CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'canceled'))),
    CONSTRAINT result_iff_succeeded CHECK ((result_artifact IS NOT NULL) = (state = 'succeeded')),
    CONSTRAINT code_iff_failed CHECK ((error_code IS NOT NULL) = (state = 'failed')),
    CONSTRAINT canceled_was_asked CHECK (state <> 'canceled' OR cancel_requested_at IS NOT NULL),
    CONSTRAINT deleted_has_ended CHECK (deleted_at IS NULL OR finished_at IS NOT NULL),
    CONSTRAINT swept_has_ended CHECK (sweep_at IS NULL OR finished_at IS NOT NULL)
) WITH (fillfactor = 85);
CREATE INDEX jobs_list ON jobs (tenant_id, id);
CREATE INDEX jobs_open ON jobs (tenant_id, id) WHERE finished_at IS NULL;
CREATE INDEX jobs_unhappy ON jobs (tenant_id, id) WHERE state IN ('failed', 'canceled');
CREATE INDEX jobs_deadline ON jobs (start_deadline) WHERE state = 'queued' AND start_deadline IS NOT NULL;
CREATE INDEX jobs_prunable ON jobs (finished_at) WHERE finished_at IS NOT NULL AND pruned_at IS NULL;
CREATE INDEX jobs_sweep ON jobs (sweep_at) WHERE sweep_at IS NOT NULL;
CREATE INDEX jobs_metadata ON jobs USING gin (metadata jsonb_path_ops) WHERE metadata <> '{}';

-- Renewals write lease_until, progress_until and progress: none of them may ever be indexed (they would not be HOT).
CREATE TABLE steps (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id uuid NOT NULL REFERENCES jobs,
    tenant_id text NOT NULL,
    idx smallint NOT NULL,
    name text NOT NULL,
    kind text NOT NULL,
    engine text NOT NULL,
    model text,
    queue text NOT NULL,
    state text NOT NULL DEFAULT 'blocked'
        CHECK (state IN ('blocked', 'ready', 'running', 'succeeded', 'failed', 'canceled')),
    sink boolean NOT NULL,
    work bigint NOT NULL DEFAULT 0,
    params jsonb NOT NULL,
    inputs jsonb NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    enqueued_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ready_at timestamptz,
    run_at timestamptz NOT NULL DEFAULT '-infinity',
    next_doorbell timestamptz NOT NULL DEFAULT '-infinity',
    attempt integer NOT NULL DEFAULT 0,
    yields integer NOT NULL DEFAULT 0,
    app_failures integer NOT NULL DEFAULT 0,
    infra_failures integer NOT NULL DEFAULT 0,
    kills integer NOT NULL DEFAULT 0,
    max_app integer NOT NULL CHECK (max_app > 0),
    max_infra integer NOT NULL DEFAULT 4 CHECK (max_infra > 0),
    avoid_worker text,
    avoid_until timestamptz,
    fence uuid,
    worker_id text,
    lease_until timestamptz,
    progress_until timestamptz,
    timeout_s double precision NOT NULL CHECK (timeout_s > 0),
    stall_s double precision NOT NULL CHECK (stall_s > 0),
    progress jsonb,
    checkpoint jsonb,
    output_artifact uuid,
    last_outcome text,
    last_error text,
    started_at timestamptz,
    finished_at timestamptz,
    UNIQUE (job_id, name),
    CONSTRAINT lease_iff_running CHECK ((state = 'running') = (fence IS NOT NULL)),
    CONSTRAINT lease_all_or_none CHECK (num_nonnulls(fence, worker_id, lease_until, progress_until) IN (0, 4)),
    CONSTRAINT output_iff_succeeded CHECK ((state = 'succeeded') = (output_artifact IS NOT NULL)),
    CONSTRAINT step_finished_iff_terminal
        CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'canceled')))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX steps_ready ON steps (queue, priority DESC, enqueued_at, id) WHERE state = 'ready';
CREATE INDEX steps_running ON steps (queue, worker_id) WHERE state = 'running';
CREATE INDEX steps_durations ON steps (kind, model, finished_at) WHERE state = 'succeeded';

CREATE TABLE step_deps (
    step_id bigint NOT NULL REFERENCES steps,
    needs bigint NOT NULL REFERENCES steps,
    tenant_id text NOT NULL,
    PRIMARY KEY (step_id, needs),
    CHECK (step_id <> needs)
);
CREATE INDEX step_deps_needs ON step_deps (needs);

-- `n` counts attempts that were consumed; a yielded one goes on as the next `leg` of the same number. What is swept at
-- `sweep_at`: all that it uploaded, or, when it succeeded, its checkpoints alone.
CREATE TABLE attempts (
    fence uuid PRIMARY KEY,
    tenant_id text NOT NULL,
    job_id uuid NOT NULL,
    step_id bigint NOT NULL REFERENCES steps,
    n integer NOT NULL,
    leg integer NOT NULL,
    worker_id text NOT NULL,
    resumed boolean NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    outcome text CHECK (outcome IN (
        'succeeded', 'canceled', 'yielded', 'app_error', 'bad_input', 'invalid_output', 'timeout', 'stalled',
        'worker_lost', 'runner_lost', 'transient_infra', 'gpu_oom', 'gpu_error', 'host_oom')),
    message text,
    sweep_at timestamptz,
    CONSTRAINT ended_iff_outcome CHECK ((ended_at IS NULL) = (outcome IS NULL)),
    UNIQUE (job_id, step_id, n, leg)
);
CREATE INDEX attempts_sweep ON attempts (sweep_at) WHERE sweep_at IS NOT NULL;

CREATE TABLE artifacts (
    id uuid PRIMARY KEY,
    tenant_id text NOT NULL,
    job_id uuid NOT NULL,
    step_id bigint NOT NULL,
    idx smallint NOT NULL,
    fence uuid NOT NULL REFERENCES attempts,
    name text NOT NULL,
    key text NOT NULL UNIQUE,
    content_type text NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    meta jsonb NOT NULL DEFAULT '{}',
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (job_id, step_id, idx)
);

-- No foreign key to jobs: every event is written with an update of its job's counter, which is the stronger bond.
CREATE TABLE events (
    job_id uuid NOT NULL,
    seq bigint NOT NULL,
    tenant_id text NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL DEFAULT '{}',
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job_id, seq)
);
CREATE INDEX events_tenant ON events (tenant_id, at);
CREATE UNIQUE INDEX events_one_terminal ON events (job_id) WHERE type IN ('succeeded', 'failed', 'canceled');

CREATE TABLE idempotency (
    tenant_id text NOT NULL,
    route text NOT NULL,
    key_sha256 bytea NOT NULL CHECK (octet_length(key_sha256) = 32),
    body_sha256 bytea NOT NULL CHECK (octet_length(body_sha256) = 32),
    job_id uuid NOT NULL REFERENCES jobs DEFERRABLE INITIALLY DEFERRED,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, route, key_sha256)
);
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

CREATE TABLE assets (
    id uuid PRIMARY KEY,
    tenant_id text NOT NULL,
    origin text NOT NULL CHECK (origin IN ('upload', 'output')),
    kind text NOT NULL CHECK (kind IN ('image', 'video', 'other')),
    content_type text NOT NULL,
    filename text,
    size bigint NOT NULL CHECK (size > 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    key text NOT NULL UNIQUE,
    width integer,
    height integer,
    frames integer,
    fps text,
    duration_s double precision,
    codecs text,
    meta jsonb NOT NULL DEFAULT '{}',
    job_id uuid,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    deleted_at timestamptz,
    removed_at timestamptz,
    purged_at timestamptz,
    CONSTRAINT output_has_job CHECK ((origin = 'output') = (job_id IS NOT NULL))
);
CREATE INDEX assets_list ON assets (tenant_id, id);
CREATE UNIQUE INDEX assets_content ON assets (tenant_id, sha256)
    WHERE origin = 'upload' AND removed_at IS NULL AND deleted_at IS NULL;
CREATE INDEX assets_expiry ON assets (expires_at) WHERE purged_at IS NULL;
CREATE INDEX assets_outputs ON assets (job_id) WHERE job_id IS NOT NULL;

CREATE TABLE uploads (
    id uuid PRIMARY KEY,
    tenant_id text NOT NULL,
    asset_id uuid NOT NULL,
    key text NOT NULL,
    filename text,
    content_type text NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    sha256 bytea CHECK (octet_length(sha256) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    completed_at timestamptz,
    removed_at timestamptz
);
CREATE INDEX uploads_expiry ON uploads (expires_at) WHERE removed_at IS NULL;

-- A null tenant serves all tenants.
CREATE TABLE workers (
    id text PRIMARY KEY,
    tenant_id text,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    queues text[] NOT NULL,
    engines text[] NOT NULL,
    kinds text[] NOT NULL,
    capabilities jsonb NOT NULL DEFAULT '{}',
    state text NOT NULL CHECK (state IN ('starting', 'idle', 'busy', 'draining')),
    control text NOT NULL DEFAULT 'run' CHECK (control IN ('run', 'pause', 'drain')),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    alive_until timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE webhook_endpoints (
    id uuid PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants,
    url text NOT NULL,
    secret bytea NOT NULL,
    old_secret bytea,
    events text[] NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at timestamptz
);
CREATE INDEX webhook_endpoints_tenant ON webhook_endpoints (tenant_id);

CREATE TABLE webhook_outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id text NOT NULL,
    job_id uuid NOT NULL REFERENCES jobs,
    endpoint_id uuid REFERENCES webhook_endpoints,
    url text NOT NULL,
    type text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    last_error text,
    delivered_at timestamptz,
    UNIQUE (job_id, type, url)
);
CREATE INDEX webhook_outbox_due ON webhook_outbox (next_at) WHERE delivered_at IS NULL;
