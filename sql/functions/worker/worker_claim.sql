CREATE TYPE kwdbml.worker_job AS (
    job_id uuid, attempt integer, token uuid, run_name text, engine text, status text, takeover boolean, phase text, handle jsonb);

-- Contract: at most one job: an attempt whose worker has let its lease run out (takeover), else the queued job of the
-- highest priority. The caller holds it by the token, for the time of the lease, which the heartbeat renews.
CREATE FUNCTION kwdbml.worker_claim(worker_name text, engines text[], lease interval) RETURNS SETOF kwdbml.worker_job
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    j kwdbml.job;
    a kwdbml.attempt;
BEGIN
    SELECT * INTO a FROM kwdbml.attempt t
    WHERE t.ended IS NULL AND t.lease_until < clock_timestamp() AND t.engine = ANY (engines)
    ORDER BY t.lease_until LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE kwdbml.attempt t
        SET token = gen_random_uuid(), worker = worker_name, lease_until = clock_timestamp() + lease, updated = clock_timestamp()
        WHERE t.job_id = a.job_id AND t.number = a.number RETURNING * INTO a;
        SELECT * INTO j FROM kwdbml.job b WHERE b.id = a.job_id;
        RETURN NEXT (a.job_id, a.number, a.token, a.run_name, a.engine, j.status::text, true, a.phase, a.handle);
        RETURN;
    END IF;
    -- SKIP LOCKED looks through an older snapshot: the unique index on open attempts decides, and we look again.
    FOR tries IN 1..10 LOOP
        SELECT * INTO j FROM kwdbml.job b
        WHERE b.status = 'RUNNING' AND b.engine = ANY (engines) AND b.installation = kwdbml._installation()
          AND NOT EXISTS (SELECT FROM kwdbml.attempt t WHERE t.job_id = b.id AND t.ended IS NULL)
        ORDER BY b.priority DESC, b.created LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        INSERT INTO kwdbml.attempt (job_id, number, worker, lease_until, engine, run_name)
        SELECT j.id, n.number, worker_name, clock_timestamp() + lease, j.engine,
               'kwdbml-' || left(replace(j.installation::text, '-', ''), 12) || '-' || j.id || '-' || n.number
        FROM (SELECT coalesce(max(t.number), 0) + 1 FROM kwdbml.attempt t WHERE t.job_id = j.id) AS n(number)
        ON CONFLICT DO NOTHING RETURNING * INTO a;
        IF FOUND THEN
            RETURN NEXT (a.job_id, a.number, a.token, a.run_name, a.engine, j.status::text, false, a.phase, NULL::jsonb);
            RETURN;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_claim(text, text[], interval) IS 'for workers: takes one job';
