CREATE FUNCTION kwdbml._check_job(job_id uuid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    IF NOT EXISTS (SELECT FROM kwdbml.job j WHERE j.id = job_id) THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION kwdbml._check_job(uuid) IS 'true when the caller may see the job, else 42704';

-- Contract: what the job printed, in order, also while it runs. Lines of a second attempt count from 1,000,000,001 on.
CREATE FUNCTION kwdbml.job_logs(job_id uuid) RETURNS SETOF kwdbml.log_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT (l.attempt - 1) * 1000000000::bigint + l.seq, l.at, l.step, l.stream, l.line
    FROM kwdbml.job_log l
    -- the sub-select keeps the planner from seeing that NULL equals nothing, and from not asking
    WHERE kwdbml._check_job($1) AND l.job_id = (SELECT $1)
    ORDER BY l.attempt, l.seq;
END;
COMMENT ON FUNCTION kwdbml.job_logs(uuid) IS 'what a job printed, line by line, readable while it runs';
CREATE FUNCTION kwdbml.job_logs(job_id text) RETURNS SETOF kwdbml.log_row LANGUAGE sql STABLE ROWS 1000
BEGIN ATOMIC
    SELECT * FROM kwdbml.job_logs(kwdbml._job_id(job_id));
END;
COMMENT ON FUNCTION kwdbml.job_logs(text) IS 'what a job printed, line by line, readable while it runs';
