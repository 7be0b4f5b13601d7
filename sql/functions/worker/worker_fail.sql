-- Contract: the end of an attempt that did not succeed. may_retry: the job is queued again while it has retries left;
-- otherwise it is FAILED with this error. Answers what the job is now; a job that was canceled stays canceled.
CREATE FUNCTION kwdbml.worker_fail(job uuid, held uuid, new_error jsonb, may_retry boolean) RETURNS text LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
    j kwdbml.job;
BEGIN
    SELECT * INTO STRICT j FROM kwdbml.job b WHERE b.id = job FOR UPDATE;
    UPDATE kwdbml.attempt t SET ended = clock_timestamp(), outcome = new_error ->> 'type', updated = clock_timestamp()
    WHERE t.job_id = job AND t.number = a.number;
    IF j.status <> 'RUNNING' THEN
        RETURN j.status;
    END IF;
    IF may_retry AND a.number <= j.retries THEN
        PERFORM pg_notify('kwdbml_wake', '');
        RETURN 'RUNNING';
    END IF;
    UPDATE kwdbml.job b SET status = 'FAILED', error = new_error WHERE b.id = job;
    RETURN 'FAILED';
END
$$;
COMMENT ON FUNCTION kwdbml.worker_fail(uuid, uuid, jsonb, boolean) IS 'for workers: ends an attempt that did not succeed';

-- Contract: the attempt of a job that has ended otherwise (canceled): nothing of it runs any more.
CREATE FUNCTION kwdbml.worker_end(job uuid, held uuid) RETURNS void LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE kwdbml.attempt a SET ended = clock_timestamp(), outcome = 'CANCELED', updated = clock_timestamp()
    WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
END;
COMMENT ON FUNCTION kwdbml.worker_end(uuid, uuid) IS 'for workers: nothing runs for a canceled job any more';

-- Contract: gives an attempt back: it costs no retry, and the caller holds it no more. One whose run was not launched
-- goes to whoever comes first; a launched one to a worker of its host, which finds the run, and to others after the
-- lease, as if nobody had given it back.
CREATE FUNCTION kwdbml.worker_release(job uuid, held uuid) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.attempt a SET token = gen_random_uuid(), worker = '',
        lease_until = CASE WHEN a.phase = 'staging' THEN '-infinity' ELSE a.lease_until END,
        stagings = greatest(a.stagings - (a.phase = 'staging')::integer, 0)
    WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
    PERFORM pg_notify('kwdbml_wake', '');
END
$$;
COMMENT ON FUNCTION kwdbml.worker_release(uuid, uuid) IS 'for workers: lets another worker have the job';
