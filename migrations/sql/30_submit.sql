-- Reads that submit shares with the queries, then submit itself.

-- Is anybody alive, taking work, in that queue, with that engine? null says yes.
CREATE FUNCTION fw_blocked(p_queue text, p_engine text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM 1 FROM workers w
    WHERE w.alive_until > clock_timestamp() AND w.control = 'run' AND w.state <> 'draining'
      AND p_queue = ANY (w.queues) AND p_engine = ANY (w.engines) LIMIT 1;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    RETURN CASE
        WHEN EXISTS (SELECT 1 FROM workers w WHERE p_queue = ANY (w.queues) AND p_engine = ANY (w.engines))
            THEN 'workers_offline'
        WHEN EXISTS (SELECT 1 FROM workers w WHERE p_queue = ANY (w.queues) AND w.alive_until > clock_timestamp())
            THEN 'no_capability'
        ELSE 'no_worker' END;
END $$;

-- The one place where the API's word for a job is chosen.
CREATE FUNCTION fw_status(p_state text, p_run_at timestamptz, p_blocked text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN p_state <> 'queued' THEN p_state
                WHEN p_run_at > clock_timestamp() THEN 'scheduled'
                WHEN p_blocked IS NOT NULL THEN 'waiting'
                ELSE 'queued' END
$$;

-- Open jobs of a tenant, and of all, move by p_by. The last thing a transaction does, and always in this order.
CREATE FUNCTION fw_count_open(p_tenant text, p_by integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_shard smallint := pg_backend_pid() % 16;
    v_tenant text;
BEGIN
    FOREACH v_tenant IN ARRAY ARRAY[p_tenant, '*'] LOOP
        UPDATE tenant_open SET n = n + p_by WHERE tenant_id = v_tenant AND shard = v_shard;
        IF NOT FOUND THEN
            INSERT INTO tenant_open AS t (tenant_id, shard, n) VALUES (v_tenant, v_shard, p_by)
            ON CONFLICT (tenant_id, shard) DO UPDATE SET n = t.n + p_by;
        END IF;
    END LOOP;
END $$;

-- One statement makes a job, its steps, its first event and its idempotency record, or answers why not:
-- made | replayed | key_reused | tenant_full | full | no_tenant | asset_gone.
CREATE FUNCTION fw_submit(
    p_id uuid, p_order jsonb, p_max_all integer, p_max_tenant integer,
    p_route text, p_key bytea, p_body bytea, p_key_ttl_s double precision
) RETURNS TABLE (answer text, job_id uuid, created_at timestamptz, status text, blocked text, step_ids bigint[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    -- More than sessions can be submitting at once, so that nobody who skipped the lock can pass the cap.
    c_margin CONSTANT integer := 1000;
    v_tenant text := p_order ->> 'tenant';
    v_steps jsonb := p_order -> 'steps';
    v_assets uuid[] := translate(p_order ->> 'assets', '[]"', '{}')::uuid[];
    v_kept integer;
    v_run_at timestamptz := (p_order ->> 'run_at')::timestamptz;
    v_priority smallint := (p_order ->> 'priority')::smallint;
    v_now timestamptz := clock_timestamp();
    v_cap integer;
    v_open integer;
    v_all integer;
    v_refused text;
    v_blocked text;
    v_ids bigint[];
    v_old record;
BEGIN
    IF p_key IS NOT NULL THEN
        INSERT INTO idempotency AS i (tenant_id, route, key_sha256, body_sha256, job_id, expires_at)
        VALUES (v_tenant, p_route, p_key, p_body, p_id, v_now + make_interval(secs => p_key_ttl_s))
        ON CONFLICT (tenant_id, route, key_sha256) DO UPDATE
            SET body_sha256 = excluded.body_sha256, job_id = excluded.job_id,
                created_at = v_now, expires_at = excluded.expires_at
            WHERE i.expires_at <= v_now;
        IF NOT FOUND THEN
            SELECT i.job_id, i.body_sha256 INTO v_old FROM idempotency i
            WHERE i.tenant_id = v_tenant AND i.route = p_route AND i.key_sha256 = p_key;
            RETURN QUERY SELECT CASE WHEN v_old.body_sha256 = p_body THEN 'replayed' ELSE 'key_reused' END,
                                v_old.job_id, NULL::timestamptz, NULL::text, NULL::text, NULL::bigint[];
            RETURN;
        END IF;
    END IF;

    SELECT least(t.max_open, p_max_tenant) INTO v_cap FROM tenants t WHERE t.id = v_tenant;
    SELECT coalesce(sum(o.n) FILTER (WHERE o.tenant_id = v_tenant), 0), coalesce(sum(o.n) FILTER (WHERE o.tenant_id = '*'), 0)
    INTO v_open, v_all FROM tenant_open o WHERE o.tenant_id IN (v_tenant, '*');
    IF v_open + c_margin >= v_cap THEN
        PERFORM 1 FROM tenants t WHERE t.id = v_tenant FOR NO KEY UPDATE;
        SELECT coalesce(sum(o.n), 0) INTO v_open FROM tenant_open o WHERE o.tenant_id = v_tenant;
    END IF;
    v_refused := CASE WHEN v_cap IS NULL THEN 'no_tenant' WHEN v_open >= v_cap THEN 'tenant_full'
                      WHEN v_all >= p_max_all THEN 'full' END;
    IF v_refused IS NULL AND cardinality(v_assets) > 0 THEN
        -- Until the job is committed nobody deletes these; who was deleting one is waited for and then seen.
        SELECT count(*) INTO v_kept FROM (
            SELECT a.id FROM assets a
            WHERE a.id = ANY (v_assets) AND a.tenant_id = v_tenant AND a.deleted_at IS NULL
            ORDER BY a.id FOR KEY SHARE) AS kept;
        IF v_kept < cardinality(v_assets) THEN
            v_refused := 'asset_gone';
        END IF;
    END IF;
    IF v_refused IS NOT NULL THEN
        IF p_key IS NOT NULL THEN
            DELETE FROM idempotency i WHERE i.tenant_id = v_tenant AND i.route = p_route AND i.key_sha256 = p_key;
        END IF;
        RETURN QUERY SELECT v_refused, NULL::uuid, NULL::timestamptz, NULL::text, NULL::text, NULL::bigint[];
        RETURN;
    END IF;

    INSERT INTO jobs (id, tenant_id, kind, model, priority, event_seq, input, params, adjusted, request, metadata,
                      webhook, assets, retry_of, output_ttl_s, run_at, start_deadline, created_at)
    VALUES (p_id, v_tenant, p_order ->> 'kind', p_order ->> 'model', v_priority, 1, p_order -> 'input',
            p_order -> 'params', p_order -> 'adjusted', p_order -> 'request', p_order -> 'metadata',
            p_order ->> 'webhook', v_assets, (p_order ->> 'retry_of')::uuid, (p_order ->> 'output_ttl_s')::double precision, v_run_at,
            (p_order ->> 'start_deadline')::timestamptz, v_now);
    WITH made AS (
        INSERT INTO steps (job_id, tenant_id, idx, name, kind, engine, model, queue, state, sink, work, params, inputs,
                           priority, enqueued_at, ready_at, run_at, max_app, timeout_s, stall_s)
        SELECT p_id, v_tenant, x.idx, x.name, x.kind, x.engine, x.model, x.queue,
               CASE WHEN x.needs = '{}' THEN 'ready' ELSE 'blocked' END, x.sink, x.work, x.params, x.inputs,
               v_priority, v_now, CASE WHEN x.needs = '{}' THEN greatest(v_now, v_run_at) END,
               CASE WHEN x.needs = '{}' THEN coalesce(v_run_at, '-infinity') ELSE '-infinity' END,
               x.max_app, x.timeout_s, x.stall_s
        FROM jsonb_to_recordset(v_steps) AS x (
            idx smallint, name text, kind text, engine text, model text, queue text, sink boolean, work bigint,
            params jsonb, inputs jsonb, needs smallint[], max_app integer,
            timeout_s double precision, stall_s double precision)
        RETURNING id, idx
    ) SELECT array_agg(m.id ORDER BY m.idx) INTO v_ids FROM made m;
    IF cardinality(v_ids) > 1 THEN
        INSERT INTO step_deps (step_id, needs, tenant_id)
        SELECT v_ids[x.idx + 1], v_ids[needed.idx + 1], v_tenant
        FROM jsonb_to_recordset(v_steps) AS x (idx smallint, needs smallint[]), unnest(x.needs) AS needed (idx);
    END IF;
    INSERT INTO events (job_id, seq, tenant_id, type, data, at)
    VALUES (p_id, 1, v_tenant, 'queued', jsonb_strip_nulls(jsonb_build_object(
        'kind', p_order -> 'kind', 'model', p_order -> 'model', 'steps', cardinality(v_ids), 'run_at', v_run_at,
        'retry_of', 'job_' || replace(p_order ->> 'retry_of', '-', ''))), v_now);
    PERFORM fw_count_open(v_tenant, 1);
    v_blocked := fw_blocked(v_steps #>> '{0,queue}', v_steps #>> '{0,engine}');
    RETURN QUERY SELECT 'made', p_id, v_now, fw_status('queued', v_run_at, v_blocked), v_blocked, v_ids;
END $$;

-- Hides an asset that no open job reads; used says that one does, and no row that there is no such asset.
-- Two statements: the second must see the job of a submit that the lock of the first had to wait for.
CREATE FUNCTION fw_delete_asset(p_tenant text, p_asset uuid) RETURNS TABLE (used boolean) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM assets a
    WHERE a.id = p_asset AND a.tenant_id = p_tenant AND a.deleted_at IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT 1 FROM jobs j
               WHERE j.tenant_id = p_tenant AND j.finished_at IS NULL AND p_asset = ANY (j.assets)) THEN
        RETURN QUERY SELECT true;
        RETURN;
    END IF;
    UPDATE assets a SET deleted_at = clock_timestamp(), expires_at = clock_timestamp() WHERE a.id = p_asset;
    RETURN QUERY SELECT false;
END $$;
