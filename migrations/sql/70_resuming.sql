-- What attempts say of where they went on from, and outcomes of attempts that found no model to run.

-- `resumed`: an attempt was given a checkpoint; `resumed_from_step` is what its engine could use of that (0: nothing),
-- `exact` whether to the bit.
ALTER TABLE attempts
    ADD COLUMN resumed_from_step integer CHECK (resumed_from_step >= 0),
    ADD COLUMN exact boolean,
    ADD CONSTRAINT exact_iff_from_step CHECK ((exact IS NULL) = (resumed_from_step IS NULL)),
    DROP CONSTRAINT attempts_outcome_check,
    ADD CONSTRAINT attempts_outcome_check CHECK (outcome IN (
        'succeeded', 'canceled', 'yielded', 'app_error', 'bad_input', 'invalid_output', 'timeout', 'stalled',
        'worker_lost', 'runner_lost', 'transient_infra', 'gpu_oom', 'gpu_error', 'host_oom',
        'model_not_ready', 'weights_refused', 'licence_not_accepted', 'insufficient_vram'));

-- From which finished step an attempt goes on; false: it has ended, or said so before. No job row: nothing else changes.
CREATE FUNCTION fw_resumed(p_fence uuid, p_step integer, p_exact boolean) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE attempts a SET resumed_from_step = p_step, exact = p_exact
    WHERE a.fence = p_fence AND a.ended_at IS NULL AND a.resumed_from_step IS NULL;
    RETURN FOUND;
END $$;

-- ok | already | fenced. Artifacts, their assets, the step, what it readies, and the end of the job: all or nothing.
-- p_checkpoints: the attempt may have left some beside its files.
CREATE OR REPLACE FUNCTION fw_complete(p_job uuid, p_step bigint, p_fence uuid, p_artifacts jsonb, p_checkpoints boolean)
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
        'step', p_step, 'name', v_step.name, 'attempt', v_step.attempt, 'artifacts', v_names,
        'resumed_from_step', (SELECT a.resumed_from_step FROM attempts a WHERE a.fence = p_fence)), v_now);
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
CREATE OR REPLACE FUNCTION fw_release(
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
        'final', v_final, 'retry_in_s', CASE WHEN NOT v_final THEN round(v_delay::numeric, 1) END,
        'resumed_from_step', (SELECT a.resumed_from_step FROM attempts a WHERE a.fence = p_fence)), v_now);
    IF v_final THEN
        v_seq := fw_finish(p_job, 'failed',
            CASE WHEN v_step.kills >= (v_policy ->> 'poison')::integer THEN 'poison' ELSE p_outcome END,
            p_message, p_field);
    END IF;
    RETURN QUERY SELECT CASE WHEN v_final THEN 'failed' ELSE 'retry' END, v_step.queue,
        CASE WHEN NOT v_final THEN v_delay END, v_seq;
END $$;
