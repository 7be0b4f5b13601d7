-- Contract: runs to stop and delete, put off for a while so that two workers do not work on one; worker_cleaned ends it.
-- Runs of the engines in bound are reached only from the host that they were launched on.
CREATE FUNCTION kwdbml.worker_cleanup(engines text[], host text, bound text[] DEFAULT '{local}')
RETURNS TABLE (engine text, run_name text, handle jsonb) LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    UPDATE kwdbml.cleanup c
    SET not_before = clock_timestamp() + least(interval '10 seconds' * (c.tries + 1), interval '10 minutes'), tries = c.tries + 1
    WHERE c.id IN (SELECT d.id FROM kwdbml.cleanup d
                   WHERE d.engine = ANY (engines) AND d.not_before <= clock_timestamp()
                     AND (d.engine <> ALL (bound) OR d.host IN (worker_cleanup.host, ''))
                   LIMIT 20 FOR UPDATE SKIP LOCKED)
    RETURNING c.engine, c.run_name, c.handle;
END;
COMMENT ON FUNCTION kwdbml.worker_cleanup(text[], text, text[]) IS 'for workers: what must still be stopped and deleted';

CREATE FUNCTION kwdbml.worker_cleaned(run text) RETURNS void LANGUAGE sql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    DELETE FROM kwdbml.cleanup c WHERE c.run_name = run;
END;
COMMENT ON FUNCTION kwdbml.worker_cleaned(text) IS 'for workers: nothing of a run is left';

-- Contract: a RUNNING job that came with a restored dump never runs here: what it stood for is the original's.
CREATE FUNCTION kwdbml.worker_sweep() RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.attempt a SET ended = clock_timestamp(), outcome = 'RESTORED'
    FROM kwdbml.job j
    WHERE a.job_id = j.id AND a.ended IS NULL AND j.installation <> kwdbml._installation();
    UPDATE kwdbml.job j
    SET status = 'FAILED',
        error = jsonb_build_object('type', 'Restored', 'message', 'restored from a backup: the job was running in another installation',
                                   'step', NULL, 'traceback', '[]'::jsonb)
    WHERE j.status = 'RUNNING' AND j.installation <> kwdbml._installation();
END
$$;
COMMENT ON FUNCTION kwdbml.worker_sweep() IS 'for workers: ends what came running out of a backup';
