-- requires: show_jobs
-- Contract: one row, or 42704 in the same words whether the job does not exist or is not yours.
-- VOLATILE, or it would not see the job in show_job(train_model(…)): a stable function looks through the snapshot that the
-- statement began with.
CREATE FUNCTION kwdbml.show_job(job_id uuid) RETURNS SETOF kwdbml.job_row LANGUAGE plpgsql VOLATILE ROWS 1 AS $$
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    RETURN QUERY
        SELECT j.id::text, j.type::text, j.status::text, j.pipeline_name, j.model_name, j.model_version,
               j.creator::text, j.created, j.finished, j.settings, j.result, j.error
        FROM kwdbml.job j WHERE j.id = job_id;
    IF NOT FOUND THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.show_job(uuid) IS 'one of your jobs (an admin''s: any)';
CREATE FUNCTION kwdbml.show_job(job_id text) RETURNS SETOF kwdbml.job_row LANGUAGE sql VOLATILE ROWS 1
BEGIN ATOMIC
    SELECT * FROM kwdbml.show_job(kwdbml._job_id(job_id));
END;
COMMENT ON FUNCTION kwdbml.show_job(text) IS 'one of your jobs (an admin''s: any)';
