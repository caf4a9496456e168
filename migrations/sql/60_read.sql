-- What a reader of jobs is told beyond the rows: why it waits and how many are ahead.

-- 1 is next; null when p_cap or more steps are ahead.
CREATE FUNCTION fw_position(p_queue text, p_priority smallint, p_enqueued timestamptz, p_id bigint, p_cap integer)
RETURNS integer LANGUAGE sql STABLE SET enable_seqscan = off AS $$
    SELECT CASE WHEN count(*) < p_cap THEN count(*)::integer + 1 END FROM (
        SELECT 1 FROM (
            SELECT 1 FROM steps s
            WHERE s.queue = p_queue AND s.state = 'ready' AND s.priority > p_priority AND s.run_at <= clock_timestamp()
            UNION ALL
            SELECT 1 FROM steps s
            WHERE s.queue = p_queue AND s.state = 'ready' AND s.priority = p_priority
              AND (s.enqueued_at, s.id) < (p_enqueued, p_id) AND s.run_at <= clock_timestamp()
        ) ahead LIMIT p_cap) counted
$$;

-- The step an open job waits with when nothing of it runs: why it waits (null: in line) and its place. Strict: a null
-- id (an ended job) costs nothing.
CREATE FUNCTION fw_waits(p_job uuid, p_cap integer)
RETURNS TABLE (code text, queue text, engine text, until timestamptz, outcome text, place integer)
LANGUAGE plpgsql STABLE STRICT AS $$
DECLARE
    v_step steps;
BEGIN
    SELECT s.* INTO v_step FROM steps s WHERE s.job_id = p_job AND s.state IN ('running', 'ready')
    ORDER BY s.state = 'running' DESC, s.idx LIMIT 1;
    IF v_step.state IS DISTINCT FROM 'ready' THEN
        RETURN;
    END IF;
    IF v_step.run_at > clock_timestamp() THEN
        RETURN QUERY SELECT CASE WHEN v_step.last_outcome IS NOT NULL THEN 'retry_backoff' END,
            v_step.queue, v_step.engine, v_step.run_at, v_step.last_outcome, NULL::integer;
    ELSE
        RETURN QUERY SELECT fw_blocked(v_step.queue, v_step.engine), v_step.queue, v_step.engine, NULL::timestamptz,
            v_step.last_outcome, CASE WHEN p_cap > 0 THEN
                fw_position(v_step.queue, v_step.priority, v_step.enqueued_at, v_step.id, p_cap) END;
    END IF;
END $$;
