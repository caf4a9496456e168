-- The moves of framewright/jobs.py once more, where nobody can forget them; and what is final stays final.

CREATE FUNCTION fw_guard_job_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (
        ('queued', 'running'), ('queued', 'failed'), ('queued', 'canceled'),
        ('running', 'succeeded'), ('running', 'failed'), ('running', 'canceled')
    ) THEN
        RAISE EXCEPTION 'a job that is % cannot become %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER job_moves BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION fw_guard_job_move();

CREATE FUNCTION fw_guard_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% % has ended and is final', TG_TABLE_NAME, OLD.id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER job_final BEFORE UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.finished_at IS NOT NULL AND (
        OLD.event_seq <> NEW.event_seq OR OLD.finished_at IS DISTINCT FROM NEW.finished_at
        OR OLD.result_artifact IS DISTINCT FROM NEW.result_artifact
        OR OLD.error_code IS DISTINCT FROM NEW.error_code))
    EXECUTE FUNCTION fw_guard_final();

CREATE FUNCTION fw_guard_step_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (
        ('blocked', 'ready'), ('blocked', 'canceled'), ('ready', 'running'), ('ready', 'canceled'),
        ('running', 'ready'), ('running', 'succeeded'), ('running', 'failed'), ('running', 'canceled')
    ) THEN
        RAISE EXCEPTION 'a step that is % cannot become %', OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER step_moves BEFORE UPDATE ON steps FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION fw_guard_step_move();

CREATE FUNCTION fw_guard_fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the lease of step % cannot change hands in place', OLD.id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER step_fence BEFORE UPDATE ON steps FOR EACH ROW
    WHEN (OLD.state = 'running' AND NEW.state = 'running' AND OLD.fence IS DISTINCT FROM NEW.fence)
    EXECUTE FUNCTION fw_guard_fence();
CREATE TRIGGER step_final BEFORE UPDATE ON steps FOR EACH ROW
    WHEN (OLD.finished_at IS NOT NULL AND (
        OLD.finished_at IS DISTINCT FROM NEW.finished_at OR OLD.output_artifact IS DISTINCT FROM NEW.output_artifact))
    EXECUTE FUNCTION fw_guard_final();
