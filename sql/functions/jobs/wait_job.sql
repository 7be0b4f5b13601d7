-- Contract: 55000 when the row was written by the transaction that asks: no worker can see the job before it commits.
CREATE FUNCTION kwdbml._waitable_status(job_id uuid) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found_status text;
    written xid;
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    SELECT j.status, j.xmin INTO found_status, written FROM kwdbml.job j WHERE j.id = job_id;
    IF found_status IS NULL THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
    IF found_status = 'RUNNING' AND kwdbml._written_here(written) THEN
        RAISE EXCEPTION 'job % was submitted by this transaction and starts only when it commits', job_id
            USING ERRCODE = '55000', HINT = 'Commit first, then wait.';
    END IF;
    RETURN found_status;
END
$$;
COMMENT ON FUNCTION kwdbml._waitable_status(uuid) IS 'the status of a job that one may wait for';

-- Contract: the status when the job ends or the time is up. Holds its snapshot while it waits: for short waits.
CREATE FUNCTION kwdbml.wait_job(job_id uuid, timeout interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    give_up timestamptz := pg_catalog.clock_timestamp() + timeout;
    pause double precision := 0.02;
    found_status text := kwdbml._waitable_status(job_id);
BEGIN
    WHILE found_status = 'RUNNING' AND (give_up IS NULL OR pg_catalog.clock_timestamp() < give_up) LOOP
        PERFORM pg_catalog.pg_sleep(pause);
        pause := least(pause OPERATOR(pg_catalog.*) 1.5, 0.5);
        found_status := kwdbml._waitable_status(job_id);
    END LOOP;
    RETURN found_status;
END
$$;
COMMENT ON FUNCTION kwdbml.wait_job(uuid, interval) IS
    'waits until a job ends or the time is up and answers its status; holds a snapshot, which keeps VACUUM from cleaning up: for long waits CALL kwdbml.wait_for_job';
CREATE FUNCTION kwdbml.wait_job(job_id text, timeout interval DEFAULT NULL) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN kwdbml.wait_job(kwdbml._job_id(job_id), timeout);
END
$$;
COMMENT ON FUNCTION kwdbml.wait_job(text, interval) IS
    'waits until a job ends or the time is up and answers its status; holds a snapshot, which keeps VACUUM from cleaning up: for long waits CALL kwdbml.wait_for_job';
