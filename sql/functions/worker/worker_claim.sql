-- Contract: at most one job: an attempt whose worker has let its lease run out or, on this host, has given it back
-- (takeover), else the queued job of the highest priority. The caller holds it by the token, for the time of the lease,
-- which the heartbeat renews. host is
-- where the attempt may have been launched: the caller's own unless somebody else came so far. queues NULL: all.
CREATE FUNCTION kwdbml.worker_claim(
    worker_name text, engines text[], lease interval, worker_host text DEFAULT '', queues text[] DEFAULT NULL)
RETURNS SETOF kwdbml.worker_job LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    j kwdbml.job;
    a kwdbml.attempt;
BEGIN
    SELECT t.* INTO a FROM kwdbml.attempt t JOIN kwdbml.job b ON b.id = t.job_id
    WHERE t.ended IS NULL AND (t.lease_until < clock_timestamp() OR t.worker = '' AND t.host = worker_host)
      AND t.engine = ANY (engines)
      AND b.installation = kwdbml._installation() AND (queues IS NULL OR b.queue = ANY (queues))
    ORDER BY t.lease_until LIMIT 1 FOR UPDATE OF t SKIP LOCKED;
    IF FOUND AND a.phase = 'staging' AND a.stagings >= 5 THEN
        -- something about it takes down whoever reads it: the worker, or the whole server
        UPDATE kwdbml.job b
        SET status = 'FAILED', error = jsonb_build_object('type', 'StagingLost', 'step', 'worker', 'traceback', '[]'::jsonb,
            'message', format('worker or server went away %s times while the data was read', a.stagings))
        WHERE b.id = a.job_id AND b.status = 'RUNNING';
        UPDATE kwdbml.attempt t SET ended = clock_timestamp(), outcome = 'StagingLost' WHERE t.job_id = a.job_id AND t.number = a.number;
    ELSIF FOUND THEN
        UPDATE kwdbml.attempt t
        SET token = gen_random_uuid(), worker = worker_name, lease_until = clock_timestamp() + lease, updated = clock_timestamp(),
            host = CASE WHEN t.phase = 'staging' THEN worker_host ELSE t.host END,
            stagings = t.stagings + (t.phase = 'staging')::integer
        WHERE t.job_id = a.job_id AND t.number = a.number RETURNING * INTO a;
        SELECT * INTO j FROM kwdbml.job b WHERE b.id = a.job_id;
        RETURN NEXT (a.job_id, a.number, a.token, a.run_name, a.engine, j.status::text, true, a.phase, a.handle, a.host);
        RETURN;
    END IF;
    -- SKIP LOCKED looks through an older snapshot: the unique index on open attempts decides, and we look again.
    FOR tries IN 1..10 LOOP
        SELECT * INTO j FROM kwdbml.job b
        WHERE b.status = 'RUNNING' AND b.engine = ANY (engines) AND b.installation = kwdbml._installation()
          AND (queues IS NULL OR b.queue = ANY (queues))
          AND NOT EXISTS (SELECT FROM kwdbml.attempt t WHERE t.job_id = b.id AND t.ended IS NULL)
        ORDER BY b.priority DESC, b.created LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        INSERT INTO kwdbml.attempt (job_id, number, worker, host, lease_until, engine, run_name)
        SELECT j.id, n.number, worker_name, worker_host, clock_timestamp() + lease, j.engine,
               'kwdbml-' || left(replace(j.installation::text, '-', ''), 12) || '-' || j.id || '-' || n.number
        FROM (SELECT coalesce(max(t.number), 0) + 1 FROM kwdbml.attempt t WHERE t.job_id = j.id) AS n(number)
        ON CONFLICT DO NOTHING RETURNING * INTO a;
        IF FOUND THEN
            RETURN NEXT (a.job_id, a.number, a.token, a.run_name, a.engine, j.status::text, false, a.phase, NULL::jsonb, a.host);
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_claim(text, text[], interval, text, text[]) IS 'for workers: takes one job';
