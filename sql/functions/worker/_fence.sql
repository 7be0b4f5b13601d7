-- Contract: the open attempt of this token, or 55000: somebody else has taken the job over, or it is gone. What decides
-- is the token, never a clock.
CREATE FUNCTION kwdbml._fence(job uuid, held uuid) RETURNS kwdbml.attempt LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_attempt kwdbml.attempt;
BEGIN
    SELECT * INTO found_attempt FROM kwdbml.attempt a WHERE a.job_id = job AND a.token = held AND a.ended IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is no longer ours', job USING ERRCODE = '55000', HINT = 'Another worker has taken it over, or it was removed.';
    END IF;
    RETURN found_attempt;
END
$$;
COMMENT ON FUNCTION kwdbml._fence(uuid, uuid) IS 'the attempt that a worker''s token stands for';
REVOKE ALL ON FUNCTION kwdbml._fence(uuid, uuid) FROM PUBLIC;
