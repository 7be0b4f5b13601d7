-- Contract: admins only (42501 before any look-up); a running job is canceled first and what runs for it is cleaned
-- up by a worker; models it made stay.
CREATE FUNCTION kwdbml.remove_job(job_id uuid) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT kwdbml._is_admin(current_user) THEN
        RAISE EXCEPTION 'permission denied to remove jobs'
            USING ERRCODE = '42501', HINT = 'Only an admin (a member of kwdbml_admin) may. To stop a job of yours: kwdbml.cancel_job(id).';
    END IF;
    PERFORM kwdbml._job_id(job_id::text);
    UPDATE kwdbml.job j SET status = 'CANCELED' WHERE j.id = job_id AND j.status OPERATOR(pg_catalog.=) 'RUNNING';
    DELETE FROM kwdbml.job j WHERE j.id = job_id;
    IF NOT FOUND THEN
        PERFORM kwdbml._no_such_job(job_id);
    END IF;
    RETURN job_id::text;
END
$$;
COMMENT ON FUNCTION kwdbml.remove_job(uuid) IS 'removes a job and all traces of it but the models it made; admins only';
CREATE FUNCTION kwdbml.remove_job(job_id text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    -- the right first: a stranger learns nothing, not even that the id is malformed
    IF kwdbml._is_admin(current_user) THEN
        RETURN kwdbml.remove_job(kwdbml._job_id(job_id));
    END IF;
    RETURN kwdbml.remove_job(NULL::uuid);
END
$$;
COMMENT ON FUNCTION kwdbml.remove_job(text) IS 'removes a job and all traces of it but the models it made; admins only';
