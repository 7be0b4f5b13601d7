-- Contract: commits; possible says whether the caller's CALL stood outside a transaction block. PL/Python, because
-- PL/pgSQL can neither ask nor catch what its COMMIT raises.
CREATE PROCEDURE kwdbml._commit(INOUT possible boolean) LANGUAGE plpython3u AS $$
try:
    plpy.commit()
except plpy.SPIError:
    return (False,)
return (True,)
$$;
COMMENT ON PROCEDURE kwdbml._commit(boolean) IS 'commits, or says that it cannot';

-- Contract: like wait_job, but commits between looks, so that it holds no snapshot. Not in a transaction block (25001).
-- Not SECURITY DEFINER and no SET clause: either would forbid the COMMIT.
CREATE PROCEDURE kwdbml.wait_for_job(job_id uuid, timeout interval DEFAULT NULL, INOUT status text DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
    give_up timestamptz := pg_catalog.clock_timestamp() + timeout;
    pause double precision := 0.02;
    possible boolean;
BEGIN
    CALL kwdbml._commit(possible);
    IF NOT possible THEN
        RAISE EXCEPTION 'wait_for_job cannot run inside a transaction block'
            USING ERRCODE = '25001', HINT = 'Commit first (autocommit), or use SELECT kwdbml.wait_job(job_id, timeout) for a short wait.';
    END IF;
    LOOP
        status := kwdbml._waitable_status(job_id);
        EXIT WHEN status <> 'RUNNING' OR pg_catalog.clock_timestamp() >= give_up;
        COMMIT;
        PERFORM pg_catalog.pg_sleep(pause);
        pause := least(pause OPERATOR(pg_catalog.*) 1.5, 0.5);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE kwdbml.wait_for_job(uuid, interval, text) IS
    'waits until a job ends or the time is up and answers its status; commits between looks: not inside a transaction block';
CREATE PROCEDURE kwdbml.wait_for_job(job_id text, timeout interval DEFAULT NULL, INOUT status text DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    CALL kwdbml.wait_for_job(kwdbml._job_id(job_id), timeout, status);
END
$$;
COMMENT ON PROCEDURE kwdbml.wait_for_job(text, interval, text) IS
    'waits until a job ends or the time is up and answers its status; commits between looks: not inside a transaction block';
