-- Contract: renews the leases of the attempts that are still held, and says how their jobs stand; a token that is
-- missing from the answer is lost.
CREATE FUNCTION kwdbml.worker_heartbeat(tokens uuid[], lease interval) RETURNS TABLE (token uuid, status text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    -- one that is locked is being landed or ended by whoever holds it: it must not keep the others from being renewed
    WITH free AS (
        SELECT a.job_id, a.number FROM kwdbml.attempt a
        WHERE a.token = ANY (tokens) AND a.ended IS NULL FOR UPDATE SKIP LOCKED),
    renewed AS (
        UPDATE kwdbml.attempt a SET lease_until = clock_timestamp() + lease
        FROM free f WHERE (a.job_id, a.number) = (f.job_id, f.number))
    SELECT a.token, j.status::text FROM kwdbml.attempt a JOIN kwdbml.job j ON j.id = a.job_id
    WHERE a.token = ANY (tokens) AND a.ended IS NULL;
END;
COMMENT ON FUNCTION kwdbml.worker_heartbeat(uuid[], interval) IS 'for workers: keeps what they hold';

-- Contract: what the worker knows of an attempt, for people to see; NULL leaves a field as it is, but staging's step
-- (the rows read) ends with it, and progress is always of now.
CREATE FUNCTION kwdbml.worker_update(job uuid, held uuid, new_phase text, new_step text, new_progress real, new_handle jsonb)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.attempt a
    SET phase = coalesce(new_phase, a.phase), step = CASE WHEN a.phase = 'staging' AND new_phase <> a.phase THEN new_step ELSE coalesce(new_step, a.step) END,
        progress = new_progress,
        handle = coalesce(new_handle, a.handle), updated = clock_timestamp()
    WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
    IF NOT FOUND THEN
        PERFORM kwdbml._fence(job, held);
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_update(uuid, uuid, text, text, real, jsonb) IS 'for workers: phase, step, progress and handle of an attempt';

-- Contract: stores lines [{seq, at (seconds), step, stream, line}]; again is harmless. Lines from cut_from to cut_to
-- are gone from the middle: one line says so in their place.
CREATE FUNCTION kwdbml.worker_log(job uuid, held uuid, lines jsonb, cut_from bigint, cut_to bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    a kwdbml.attempt := kwdbml._fence(job, held);
BEGIN
    INSERT INTO kwdbml.job_log (job_id, attempt, seq, at, step, stream, line)
    SELECT job, a.number, l.seq, to_timestamp(l.at), l.step, l.stream, l.line
    FROM jsonb_to_recordset(lines) AS l(seq bigint, at double precision, step text, stream text, line text)
    ON CONFLICT DO NOTHING;
    IF cut_from IS NOT NULL THEN
        DELETE FROM kwdbml.job_log l WHERE l.job_id = job AND l.attempt = a.number AND l.seq BETWEEN cut_from AND cut_to;
        INSERT INTO kwdbml.job_log (job_id, attempt, seq, at, step, stream, line)
        VALUES (job, a.number, cut_from, clock_timestamp(), coalesce(a.step, ''), 'kwdbml',
                format('[%s lines cut: only the first 1 MiB and the last 9 MiB are kept]', cut_to - cut_from + 1));
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml.worker_log(uuid, uuid, jsonb, bigint, bigint) IS 'for workers: what a job printed';
