-- How attempts and jobs end. Every function here locks the job row first, then the step row.

-- What every end of a job does, whatever the end: the webhook's outbox row and the tenant's count of open jobs.
CREATE FUNCTION fw_ended(p_job uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v_job jobs;
BEGIN
    SELECT * INTO v_job FROM jobs WHERE id = p_job;
    IF v_job.webhook IS NOT NULL THEN
        INSERT INTO webhook_outbox (tenant_id, job_id, url, type, payload)
        VALUES (v_job.tenant_id, p_job, v_job.webhook, 'job.' || v_job.state, jsonb_strip_nulls(jsonb_build_object(
            'job', 'job_' || replace(p_job::text, '-', ''), 'kind', v_job.kind, 'state', v_job.state,
            'code', v_job.error_code, 'finished_at', v_job.finished_at)));
    END IF;
    PERFORM fw_count_open(v_job.tenant_id, -1);
END $$;

CREATE FUNCTION fw_end_attempt(p_fence uuid, p_outcome text, p_message text) RETURNS void LANGUAGE sql AS $$
    UPDATE attempts SET ended_at = clock_timestamp(), outcome = p_outcome, message = p_message,
        sweep_at = CASE WHEN p_outcome <> 'succeeded' THEN clock_timestamp() + interval '2 minutes' END
    WHERE fence = p_fence AND ended_at IS NULL
$$;

-- The only way a job ends without success: revoke every live lease, cancel every open step, one terminal event.
-- The caller holds the job row. Answers the seq of that event.
CREATE FUNCTION fw_finish(p_job uuid, p_state text, p_code text, p_message text, p_field text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_job jobs;
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM fw_end_attempt(s.fence, 'canceled', NULL) FROM steps s WHERE s.job_id = p_job AND s.state = 'running';
    UPDATE steps SET state = 'canceled', fence = NULL, worker_id = NULL, lease_until = NULL, progress_until = NULL,
        finished_at = v_now
    WHERE job_id = p_job AND state IN ('blocked', 'ready', 'running');
    UPDATE jobs SET state = p_state, error_code = p_code, error_field = p_field,
        error_message = CASE WHEN p_state = 'failed' THEN p_message END,
        cancel_reason = CASE WHEN p_state = 'canceled' THEN p_message END,
        cancel_requested_at = CASE WHEN p_state = 'canceled' THEN v_now END,
        finished_at = v_now, event_seq = event_seq + 1
    WHERE id = p_job RETURNING * INTO v_job;
    INSERT INTO events (job_id, seq, tenant_id, type, data, at)
    VALUES (p_job, v_job.event_seq, v_job.tenant_id, p_state, jsonb_strip_nulls(CASE p_state
        WHEN 'failed' THEN jsonb_build_object('code', p_code, 'message', p_message, 'field', p_field)
        ELSE jsonb_build_object('reason', p_message) END), v_now);
    PERFORM fw_ended(p_job);
    RETURN v_job.event_seq;
END $$;

-- ok | already | fenced. Artifacts, their assets, the step, what it readies, and the end of the job: all or nothing.
-- p_checkpoints: the attempt may have left some beside its files.
-- What 70_resuming.sql says replaces this.
CREATE FUNCTION fw_complete(p_job uuid, p_step bigint, p_fence uuid, p_artifacts jsonb, p_checkpoints boolean)
RETURNS TABLE (answer text, job_state text, queues text[], seq bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_job jobs;
    v_step steps;
    v_primary uuid := (p_artifacts #>> '{0,id}')::uuid;
    v_result uuid;
    v_queues text[];
    v_names jsonb;
    v_now timestamptz;
BEGIN
    SELECT * INTO v_job FROM jobs WHERE id = p_job FOR NO KEY UPDATE;
    SELECT * INTO v_step FROM steps WHERE id = p_step AND job_id = p_job FOR NO KEY UPDATE;
    IF v_step.state IS DISTINCT FROM 'running' OR v_step.fence IS DISTINCT FROM p_fence THEN
        RETURN QUERY SELECT
            CASE WHEN EXISTS (SELECT 1 FROM attempts a WHERE a.fence = p_fence AND a.outcome = 'succeeded')
                THEN 'already' ELSE 'fenced' END, v_job.state, '{}'::text[], coalesce(v_job.event_seq, 0);
        RETURN;
    END IF;
    v_now := clock_timestamp();
    INSERT INTO artifacts (id, tenant_id, job_id, step_id, idx, fence, name, key, content_type, size, sha256, meta,
                           committed_at)
    SELECT x.id, v_job.tenant_id, p_job, p_step, x.idx, p_fence, x.name, x.key, x.content_type, x.size,
           decode(x.sha256, 'hex'), x.meta, v_now
    FROM jsonb_to_recordset(p_artifacts) AS x (
        id uuid, idx smallint, name text, key text, content_type text, size bigint, sha256 text, meta jsonb);
    INSERT INTO assets (id, tenant_id, origin, kind, content_type, filename, size, sha256, key, width, height, frames,
                        fps, duration_s, codecs, meta, job_id, created_at, expires_at)
    SELECT a.id, a.tenant_id, 'output',
           CASE split_part(a.content_type, '/', 1) WHEN 'image' THEN 'image' WHEN 'video' THEN 'video' ELSE 'other' END,
           a.content_type, a.name, a.size, a.sha256, a.key, m.width, m.height, m.frames, m.fps, m.duration_s, m.codecs,
           a.meta, p_job, v_now, v_now + make_interval(secs => v_job.output_ttl_s)
    FROM artifacts a, jsonb_to_record(a.meta) AS m (
        width integer, height integer, frames integer, fps text, duration_s double precision, codecs text)
    WHERE a.job_id = p_job AND a.step_id = p_step;
    UPDATE steps SET state = 'succeeded', output_artifact = v_primary, fence = NULL, worker_id = NULL,
        lease_until = NULL, progress_until = NULL, checkpoint = NULL, finished_at = v_now
    WHERE id = p_step;
    PERFORM fw_end_attempt(p_fence, 'succeeded', NULL);
    IF p_checkpoints THEN
        UPDATE attempts SET sweep_at = v_now + interval '2 minutes' WHERE fence = p_fence;
    END IF;
    WITH readied AS (
        UPDATE steps b SET state = 'ready', ready_at = v_now, next_doorbell = '-infinity'
        FROM step_deps d
        WHERE d.needs = p_step AND b.id = d.step_id AND b.state = 'blocked' AND NOT EXISTS (
            SELECT 1 FROM step_deps o JOIN steps p ON p.id = o.needs
            WHERE o.step_id = b.id AND p.state <> 'succeeded')
        RETURNING b.queue
    ) SELECT coalesce(array_agg(DISTINCT r.queue), '{}') INTO v_queues FROM readied r;
    SELECT jsonb_agg(jsonb_build_object('id', 'asset_' || replace(a.id::text, '-', ''), 'name', a.name,
        'content_type', a.content_type, 'size', a.size) ORDER BY a.idx) INTO v_names
    FROM artifacts a WHERE a.job_id = p_job AND a.step_id = p_step;
    UPDATE jobs SET event_seq = event_seq + 1 WHERE id = p_job RETURNING * INTO v_job;
    INSERT INTO events (job_id, seq, tenant_id, type, data, at)
    VALUES (p_job, v_job.event_seq, v_job.tenant_id, 'step_succeeded', jsonb_build_object(
        'step', p_step, 'name', v_step.name, 'attempt', v_step.attempt, 'artifacts', v_names), v_now);
    IF NOT EXISTS (SELECT 1 FROM steps s WHERE s.job_id = p_job AND s.state <> 'succeeded') THEN
        SELECT s.output_artifact INTO v_result FROM steps s
        WHERE s.job_id = p_job AND s.sink ORDER BY s.idx DESC LIMIT 1;
        UPDATE jobs SET state = 'succeeded', result_artifact = v_result, finished_at = v_now, event_seq = event_seq + 1
        WHERE id = p_job RETURNING * INTO v_job;
        INSERT INTO events (job_id, seq, tenant_id, type, data, at)
        VALUES (p_job, v_job.event_seq, v_job.tenant_id, 'succeeded', jsonb_build_object(
            'outputs', (SELECT jsonb_agg('asset_' || replace(a.id::text, '-', '') ORDER BY s.idx, a.idx)
                        FROM artifacts a JOIN steps s ON s.id = a.step_id WHERE a.job_id = p_job AND s.sink)), v_now);
        PERFORM fw_ended(p_job);
    END IF;
    RETURN QUERY SELECT 'ok', v_job.state, v_queues, v_job.event_seq;
END $$;

-- retry | failed | fenced. Every unsuccessful end of an attempt: the worker says so, or the reaper does.
-- p_policies is the retry table of framewright/jobs.py by outcome.
-- What 70_resuming.sql says replaces this.
CREATE FUNCTION fw_release(
    p_job uuid, p_step bigint, p_fence uuid, p_outcome text, p_message text, p_field text, p_policies jsonb
) RETURNS TABLE (answer text, queue text, retry_in_s double precision, seq bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_job jobs;
    v_step steps;
    v_policy jsonb := p_policies -> p_outcome;
    v_budget text := v_policy ->> 'budget';
    v_before integer;
    v_final boolean;
    v_delay double precision := 0;
    v_now timestamptz;
    v_seq bigint;
BEGIN
    IF v_policy IS NULL THEN
        RAISE EXCEPTION 'no retry policy for outcome %', p_outcome;
    END IF;
    SELECT * INTO v_job FROM jobs WHERE id = p_job FOR NO KEY UPDATE;
    SELECT * INTO v_step FROM steps WHERE id = p_step AND job_id = p_job FOR NO KEY UPDATE;
    IF v_step.state IS DISTINCT FROM 'running' OR v_step.fence IS DISTINCT FROM p_fence THEN
        RETURN QUERY SELECT 'fenced', v_step.queue, NULL::double precision, coalesce(v_job.event_seq, 0);
        RETURN;
    END IF;
    v_now := clock_timestamp();
    SELECT count(*) INTO v_before FROM attempts a
    WHERE a.job_id = p_job AND a.step_id = p_step AND a.outcome = p_outcome;
    PERFORM fw_end_attempt(p_fence, p_outcome, p_message);
    v_step.app_failures := v_step.app_failures + (v_budget = 'app')::integer;
    v_step.infra_failures := v_step.infra_failures + (v_budget = 'infra')::integer;
    v_step.kills := v_step.kills + (v_policy ->> 'kill')::boolean::integer;
    v_final := v_budget <> 'free' AND (
        v_before >= (v_policy ->> 'limit')::integer OR v_step.app_failures >= v_step.max_app
        OR v_step.infra_failures >= v_step.max_infra OR v_step.kills >= (v_policy ->> 'poison')::integer);
    IF NOT v_final AND v_budget <> 'free' THEN
        v_delay := CASE WHEN v_before = 0 THEN (v_policy ->> 'first_s')::double precision
            ELSE (v_policy ->> 'later_s')::double precision * power(2, v_before - 1) END;
        v_delay := least((v_policy ->> 'cap_s')::double precision,
            v_delay * (1 + (v_policy ->> 'jitter')::double precision * (2 * random() - 1)));
    END IF;
    UPDATE steps SET
        state = CASE WHEN v_final THEN 'failed' ELSE 'ready' END,
        finished_at = CASE WHEN v_final THEN v_now END,
        attempt = attempt - (v_budget = 'free')::integer, yields = yields + (v_budget = 'free')::integer,
        app_failures = v_step.app_failures, infra_failures = v_step.infra_failures, kills = v_step.kills,
        fence = NULL, worker_id = NULL, lease_until = NULL, progress_until = NULL,
        ready_at = v_now, run_at = v_now + make_interval(secs => v_delay), next_doorbell = '-infinity',
        checkpoint = CASE WHEN v_budget <> 'app' THEN checkpoint END,
        avoid_worker = CASE WHEN (v_policy ->> 'elsewhere')::boolean THEN v_step.worker_id ELSE avoid_worker END,
        avoid_until = CASE WHEN (v_policy ->> 'elsewhere')::boolean
            THEN v_now + make_interval(secs => (v_policy ->> 'avoid_s')::double precision) ELSE avoid_until END,
        last_outcome = p_outcome, last_error = CASE WHEN v_budget = 'free' THEN last_error ELSE p_message END
    WHERE id = p_step;
    UPDATE jobs SET event_seq = event_seq + 1 WHERE id = p_job RETURNING event_seq INTO v_seq;
    INSERT INTO events (job_id, seq, tenant_id, type, data, at)
    VALUES (p_job, v_seq, v_job.tenant_id, 'attempt_ended', jsonb_build_object(
        'step', p_step, 'name', v_step.name, 'attempt', v_step.attempt, 'outcome', p_outcome, 'message', p_message,
        'final', v_final, 'retry_in_s', CASE WHEN NOT v_final THEN round(v_delay::numeric, 1) END), v_now);
    IF v_final THEN
        v_seq := fw_finish(p_job, 'failed',
            CASE WHEN v_step.kills >= (v_policy ->> 'poison')::integer THEN 'poison' ELSE p_outcome END,
            p_message, p_field);
    END IF;
    RETURN QUERY SELECT CASE WHEN v_final THEN 'failed' ELSE 'retry' END, v_step.queue,
        CASE WHEN NOT v_final THEN v_delay END, v_seq;
END $$;

-- Takes back one lease that ran out or stopped advancing; no row when there is none. One job a transaction, so that
-- no two reapers ever wait for each other. Refuses until the server has been up for p_grace_s.
CREATE FUNCTION fw_reap(p_grace_s double precision, p_policies jsonb)
RETURNS TABLE (job_id uuid, tenant_id text, step_id bigint, outcome text, answer text, queue text, seq bigint)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_found record;
BEGIN
    IF clock_timestamp() < pg_postmaster_start_time() + make_interval(secs => p_grace_s) THEN
        RETURN;
    END IF;
    SELECT j.id AS job_id, j.tenant_id, s.id AS step_id, s.fence, s.worker_id, s.lease_until,
           CASE WHEN s.lease_until <= clock_timestamp() THEN 'worker_lost' ELSE 'stalled' END AS outcome
    INTO v_found
    FROM steps s JOIN jobs j ON j.id = s.job_id
    WHERE s.state = 'running' AND (s.lease_until <= clock_timestamp() OR s.progress_until <= clock_timestamp())
    LIMIT 1 FOR NO KEY UPDATE OF j, s SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT v_found.job_id, v_found.tenant_id, v_found.step_id, v_found.outcome, r.answer, r.queue, r.seq
    FROM fw_release(v_found.job_id, v_found.step_id, v_found.fence, v_found.outcome, CASE v_found.outcome
        WHEN 'worker_lost' THEN format('worker %s did not renew its lease', v_found.worker_id)
        ELSE format('no progress on worker %s', v_found.worker_id) END, NULL, p_policies) r;
    IF v_found.outcome = 'worker_lost' THEN
        -- nobody should leave work to a worker that is gone; a living one says so again within seconds
        UPDATE workers w SET alive_until = clock_timestamp()
        WHERE w.id = v_found.worker_id AND w.seen_at <= v_found.lease_until AND w.alive_until > clock_timestamp();
    END IF;
END $$;

-- Fails one job that was not started before its deadline; no row when there is none.
CREATE FUNCTION fw_expire() RETURNS TABLE (job_id uuid, tenant_id text, seq bigint) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_found record;
BEGIN
    SELECT j.id, j.tenant_id INTO v_found FROM jobs j
    WHERE j.state = 'queued' AND j.start_deadline <= clock_timestamp()
    ORDER BY j.start_deadline LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        RETURN QUERY SELECT v_found.id, v_found.tenant_id,
            fw_finish(v_found.id, 'failed', 'expired', 'not started before its start_deadline', '/start_deadline');
    END IF;
END $$;

-- The state after it: canceled now, or whatever the job had already become. No row: no such job.
CREATE FUNCTION fw_cancel(p_tenant text, p_job uuid, p_reason text) RETURNS TABLE (state text, seq bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_job jobs;
BEGIN
    SELECT * INTO v_job FROM jobs j
    WHERE j.id = p_job AND j.tenant_id = p_tenant AND j.deleted_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    ELSIF v_job.finished_at IS NOT NULL THEN
        RETURN QUERY SELECT v_job.state, v_job.event_seq;
    ELSE
        RETURN QUERY SELECT 'canceled', fw_finish(p_job, 'canceled', NULL, p_reason, NULL);
    END IF;
END $$;

-- Cancels an open job, hides it, and lets its outputs go. false: no such job.
CREATE FUNCTION fw_delete(p_tenant text, p_job uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM fw_cancel(p_tenant, p_job, 'deleted');
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Locked as fw_delete_asset does: a submit that reads an output is waited for, and its job then keeps the object.
    PERFORM 1 FROM assets WHERE job_id = p_job ORDER BY id FOR UPDATE;
    -- With an object left, the one who removes the last of them has the rest swept.
    UPDATE jobs SET deleted_at = clock_timestamp(), sweep_at = CASE
        WHEN NOT EXISTS (SELECT 1 FROM assets a WHERE a.job_id = p_job AND a.purged_at IS NULL)
            THEN clock_timestamp() + interval '2 minutes' ELSE sweep_at END
    WHERE id = p_job;
    UPDATE assets SET deleted_at = clock_timestamp(), expires_at = clock_timestamp()
    WHERE job_id = p_job AND removed_at IS NULL;
    RETURN true;
END $$;

-- Changes what may still change while a job is queued; answers its state, and no row when there is no such job.
CREATE FUNCTION fw_patch(p_tenant text, p_job uuid, p_changes jsonb) RETURNS TABLE (state text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_job jobs;
    v_run_at timestamptz := (p_changes ->> 'run_at')::timestamptz;
    v_priority smallint := (p_changes ->> 'priority')::smallint;
BEGIN
    SELECT * INTO v_job FROM jobs j
    WHERE j.id = p_job AND j.tenant_id = p_tenant AND j.deleted_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    ELSIF v_job.state = 'queued' AND v_run_at >= v_job.start_deadline THEN
        RETURN QUERY SELECT 'never_starts';
        RETURN;
    ELSIF v_job.state = 'queued' THEN
        UPDATE jobs j SET
            priority = coalesce(v_priority, j.priority),
            run_at = CASE WHEN p_changes ? 'run_at' THEN v_run_at ELSE j.run_at END,
            metadata = coalesce(p_changes -> 'metadata', j.metadata)
        WHERE j.id = p_job;
        UPDATE steps s SET
            priority = coalesce(v_priority, s.priority),
            run_at = CASE WHEN p_changes ? 'run_at' AND s.state = 'ready'
                THEN coalesce(v_run_at, '-infinity') ELSE s.run_at END,
            next_doorbell = '-infinity'
        WHERE s.job_id = p_job;
    END IF;
    RETURN QUERY SELECT v_job.state;
END $$;
