-- Contract: 55000 when the row was written by the transaction that asks: no worker can see the job before it commits.
CREATE FUNCTION kwdbml._waitable_status(job_id uuid) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found_status text;
    written bigint;
    newest bigint := pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint;
BEGIN
    PERFORM kwdbml._job_id(job_id::text);
    SELECT j.status, j.xmin::text::bigint INTO found_status, written FROM kwdbml.job j WHERE j.id = job_id;
    IF found_status IS NULL THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
    IF found_status = 'RUNNING' AND pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL THEN
        newest := greatest(newest, pg_catalog.pg_current_xact_id()::text::bigint + 1);
        -- xmin has 32 bits: give it the epoch of the newest transaction id, or the one before
        written := written + ((newest >> 32) << 32);
        IF written > newest THEN
            written := written - (1::bigint << 32);
        END IF;
        -- visible and still in progress: our own
        IF pg_catalog.pg_xact_status(written::text::xid8) = 'in progress' THEN
            RAISE EXCEPTION 'job % was submitted by this transaction and starts only when it commits', job_id
                USING ERRCODE = '55000', HINT = 'Commit first, then wait.';
        END IF;
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
        pause := least(pause * 1.5, 0.5);
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
