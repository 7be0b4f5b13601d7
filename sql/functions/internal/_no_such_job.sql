-- Contract: always 42704; one place for the words, which must not tell "not yours" from "not there".
CREATE FUNCTION kwdbml._no_such_job(job_id uuid) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION 'no such job: %', job_id USING ERRCODE = '42704', HINT = 'SELECT * FROM kwdbml.show_jobs() lists your jobs.';
END
$$;
COMMENT ON FUNCTION kwdbml._no_such_job(uuid) IS 'raises 42704';
