-- Claim, renew and the doorbells. Lock order everywhere: job row, then step row.

CREATE FUNCTION fw_other_worker(p_worker text, p_queue text, p_engine text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT 1 FROM workers w
        WHERE w.id <> p_worker AND w.alive_until > clock_timestamp() AND w.control = 'run' AND w.state <> 'draining'
          AND p_queue = ANY (w.queues) AND p_engine = ANY (w.engines))
$$;

-- {"step": name} anywhere in the inputs becomes that step's committed primary artifact.
CREATE FUNCTION fw_resolve(p_job uuid, p_value jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_found jsonb;
BEGIN
    IF jsonb_typeof(p_value) = 'array' THEN
        SELECT coalesce(jsonb_agg(fw_resolve(p_job, e.value) ORDER BY e.at), '[]') INTO v_found
        FROM jsonb_array_elements(p_value) WITH ORDINALITY AS e (value, at);
        RETURN v_found;
    ELSIF jsonb_typeof(p_value) = 'object' AND p_value ? 'step' THEN
        SELECT jsonb_build_object(
            'asset', replace(a.id::text, '-', ''), 'key', a.key, 'content_type', a.content_type, 'size', a.size,
            'sha256', encode(a.sha256, 'hex'), 'step', s.name) INTO v_found
        FROM steps s JOIN artifacts a ON a.id = s.output_artifact
        WHERE s.job_id = p_job AND s.name = p_value ->> 'step';
        IF v_found IS NULL THEN
            RAISE EXCEPTION 'step % of job % has no artifact yet', p_value ->> 'step', p_job;
        END IF;
        RETURN v_found;
    END IF;
    RETURN p_value;
END $$;

-- The best step this worker can run, or no row. Heads of each queue are found without locks, then the first free
-- one is locked with its job; nobody waits. enable_seqscan: a plan cached while the table was small must not stay.
CREATE FUNCTION fw_claim(p_worker text, p_queues text[], p_engines text[], p_lease_s double precision)
RETURNS TABLE (
    job_id uuid, step_id bigint, tenant_id text, fence uuid, attempt integer, step_name text, kind text, engine text,
    model text, queue text, params jsonb, inputs jsonb, timeout_s double precision, stall_s double precision,
    checkpoint jsonb, created_at timestamptz)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    v_heads integer;
    v_found record;
    v_step steps;
    v_seq bigint;
    v_now timestamptz;
BEGIN
    PERFORM 1 FROM workers w WHERE w.id = p_worker AND (w.control <> 'run' OR w.state = 'draining');
    IF FOUND THEN
        RETURN;
    END IF;
    FOREACH v_heads IN ARRAY ARRAY[8, 128] LOOP
        WITH heads AS MATERIALIZED (
            SELECT h.id FROM unnest(p_queues) AS q (queue)
            CROSS JOIN LATERAL (
                SELECT s.id FROM steps s
                WHERE s.queue = q.queue AND s.state = 'ready' AND s.engine = ANY (p_engines)
                  AND s.run_at <= clock_timestamp()
                  AND (s.avoid_worker IS DISTINCT FROM p_worker OR s.avoid_until <= clock_timestamp()
                       OR NOT fw_other_worker(p_worker, s.queue, s.engine))
                ORDER BY s.priority DESC, s.enqueued_at, s.id LIMIT v_heads) h)
        SELECT s.id, j.id AS job_id, j.created_at INTO v_found
        FROM heads JOIN steps s ON s.id = heads.id JOIN jobs j ON j.id = s.job_id
        WHERE s.state = 'ready' AND j.finished_at IS NULL
          AND (j.state = 'running' OR j.start_deadline IS NULL OR j.start_deadline > clock_timestamp())
        ORDER BY s.priority DESC, s.enqueued_at, s.id LIMIT 1
        FOR NO KEY UPDATE OF j, s SKIP LOCKED;
        EXIT WHEN FOUND;
    END LOOP;
    IF v_found.id IS NULL THEN
        RETURN;
    END IF;
    v_now := clock_timestamp();
    UPDATE steps s SET state = 'running', attempt = s.attempt + 1, fence = gen_random_uuid(), worker_id = p_worker,
        lease_until = v_now + make_interval(secs => p_lease_s), progress_until = v_now + make_interval(secs => s.stall_s),
        started_at = v_now
    WHERE s.id = v_found.id RETURNING s.* INTO v_step;
    INSERT INTO attempts (fence, tenant_id, job_id, step_id, n, leg, worker_id, resumed, started_at)
    VALUES (v_step.fence, v_step.tenant_id, v_step.job_id, v_step.id, v_step.attempt, v_step.yields, p_worker,
            v_step.checkpoint IS NOT NULL, v_now);
    UPDATE jobs j SET state = 'running', started_at = coalesce(j.started_at, v_now), event_seq = j.event_seq + 1
    WHERE j.id = v_step.job_id RETURNING j.event_seq INTO v_seq;
    INSERT INTO events (job_id, seq, tenant_id, type, data, at)
    VALUES (v_step.job_id, v_seq, v_step.tenant_id, 'step_started', jsonb_build_object(
        'step', v_step.id, 'name', v_step.name, 'attempt', v_step.attempt, 'worker', p_worker), v_now);
    PERFORM 1 FROM step_deps d WHERE d.step_id = v_step.id;
    IF FOUND THEN
        SELECT jsonb_object_agg(e.key, fw_resolve(v_step.job_id, e.value)) INTO v_step.inputs
        FROM jsonb_each(v_step.inputs) e;
    END IF;
    RETURN QUERY SELECT v_step.job_id, v_step.id, v_step.tenant_id, v_step.fence, v_step.attempt, v_step.name,
        v_step.kind, v_step.engine, v_step.model, v_step.queue, v_step.params, coalesce(v_step.inputs, '{}'),
        v_step.timeout_s, v_step.stall_s, v_step.checkpoint, v_found.created_at;
END $$;

-- ok | yield | lost. The fence alone guards: a lease that ran out but was not reaped may go on (a database outage).
CREATE FUNCTION fw_renew(
    p_step bigint, p_fence uuid, p_lease_s double precision, p_progressed boolean, p_progress jsonb, p_checkpoint jsonb
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_worker text;
    v_now timestamptz := clock_timestamp();
BEGIN
    UPDATE steps s SET
        lease_until = v_now + make_interval(secs => p_lease_s),
        progress_until = CASE WHEN p_progressed THEN v_now + make_interval(secs => s.stall_s) ELSE s.progress_until END,
        progress = CASE
            WHEN p_progress IS NULL THEN s.progress
            WHEN (p_progress ->> 'fraction')::float8 < (s.progress ->> 'fraction')::float8
                THEN jsonb_set(p_progress, '{fraction}', s.progress -> 'fraction')
            ELSE p_progress END,
        checkpoint = coalesce(p_checkpoint, s.checkpoint)
    WHERE s.id = p_step AND s.fence = p_fence RETURNING s.worker_id INTO v_worker;
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    PERFORM 1 FROM workers w WHERE w.id = v_worker AND w.control = 'drain';
    RETURN CASE WHEN FOUND THEN 'yield' ELSE 'ok' END;
END $$;

-- Per queue, how many due steps were not rung for lately (at most p_limit a queue); they count as rung now.
CREATE FUNCTION fw_doorbells(p_every_s double precision, p_limit integer) RETURNS TABLE (queue text, n bigint)
LANGUAGE sql SET enable_seqscan = off AS $$
    WITH RECURSIVE q AS (
        (SELECT s.queue FROM steps s WHERE s.state = 'ready' ORDER BY s.queue LIMIT 1)
        UNION ALL
        SELECT (SELECT s.queue FROM steps s WHERE s.state = 'ready' AND s.queue > q.queue ORDER BY s.queue LIMIT 1)
        FROM q WHERE q.queue IS NOT NULL
    ), due AS MATERIALIZED (
        SELECT d.id FROM q CROSS JOIN LATERAL (
            SELECT s.id FROM steps s
            WHERE s.queue = q.queue AND s.state = 'ready' AND s.run_at <= clock_timestamp()
              AND s.next_doorbell <= clock_timestamp()
            ORDER BY s.priority DESC, s.enqueued_at, s.id LIMIT p_limit
            FOR NO KEY UPDATE SKIP LOCKED) d
    ), rung AS (
        UPDATE steps s SET next_doorbell = clock_timestamp() + make_interval(secs => p_every_s)
        FROM due WHERE s.id = due.id RETURNING s.queue
    )
    SELECT rung.queue, count(*) FROM rung GROUP BY 1
$$;
