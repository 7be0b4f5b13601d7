-- Contract: RUNNING → CANCELED for good, once the caller commits; 42704 for a stranger, 55000 when it has ended.
CREATE FUNCTION kwdbml.cancel_job(job_id uuid) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found_status text;
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    UPDATE kwdbml.job j SET status = 'CANCELED' WHERE j.id = job_id AND j.status OPERATOR(pg_catalog.=) 'RUNNING';
    IF NOT FOUND THEN
        SELECT j.status INTO found_status FROM kwdbml.job j WHERE j.id = job_id;
        IF found_status IS NULL THEN
            PERFORM kwdbml._no_such_job(job_id);
        END IF;
        RAISE EXCEPTION 'job % is %, not RUNNING', job_id, found_status
            USING ERRCODE = '55000', HINT = 'Only a running job can be canceled.';
    END IF;
    RETURN job_id::text;
END
$$;
COMMENT ON FUNCTION kwdbml.cancel_job(uuid) IS 'cancels a running job of yours (an admin: anybody''s): nothing of it can land any more';
CREATE FUNCTION kwdbml.cancel_job(job_id text) RETURNS text LANGUAGE sql
BEGIN ATOMIC
    SELECT kwdbml.cancel_job(kwdbml._job_id(job_id));
END;
COMMENT ON FUNCTION kwdbml.cancel_job(text) IS 'cancels a running job of yours (an admin: anybody''s): nothing of it can land any more';
