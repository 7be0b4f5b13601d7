-- One try at running a job. Lease and heartbeat live here, not in the job's row, so that cancelling never waits for a
-- worker. Whoever holds the token of the open attempt decides; a clock never does.
CREATE TABLE kwdbml.attempt (
    job_id uuid NOT NULL REFERENCES kwdbml.job ON DELETE CASCADE,
    number integer NOT NULL,
    token uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    worker text NOT NULL,  -- '': its worker has given it back
    host text NOT NULL DEFAULT '',
    lease_until timestamptz NOT NULL,
    stagings integer NOT NULL DEFAULT 1,  -- how often somebody began to read the data
    phase text NOT NULL DEFAULT 'staging'
        CHECK (phase IN ('staging', 'launching', 'running', 'collecting', 'finalizing')),
    step text,
    progress real CHECK (progress BETWEEN 0 AND 1),
    engine text NOT NULL,
    run_name text NOT NULL,
    handle jsonb,
    started timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    updated timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    ended timestamptz,
    outcome text,
    compared_version_id uuid REFERENCES kwdbml.model_version ON DELETE SET NULL,
    PRIMARY KEY (job_id, number)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX attempt_open ON kwdbml.attempt (job_id) WHERE ended IS NULL;
CREATE INDEX attempt_compared_version ON kwdbml.attempt (compared_version_id) WHERE compared_version_id IS NOT NULL;
COMMENT ON COLUMN kwdbml.attempt.compared_version_id IS
    'the active version whose score decides whether the new one is promoted; it stays for as long as the attempt is open';
COMMENT ON TABLE kwdbml.attempt IS 'tries at running jobs; a retry is a new row with a run of its own';

CREATE TABLE kwdbml.job_log (
    job_id uuid NOT NULL REFERENCES kwdbml.job ON DELETE CASCADE,
    attempt integer NOT NULL,
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    step text NOT NULL,
    stream text NOT NULL,
    line text NOT NULL,
    PRIMARY KEY (job_id, attempt, seq)
);
COMMENT ON TABLE kwdbml.job_log IS 'what jobs printed, from the first second on; read kwdbml.job_logs(job_id)';

-- What must still be stopped or deleted is data: it is worked off and swept, also after remove_job and after a crash.
-- Never dumped.
CREATE TABLE kwdbml.cleanup (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    engine text NOT NULL,
    run_name text NOT NULL,
    host text NOT NULL DEFAULT '',
    handle jsonb,
    not_before timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    tries integer NOT NULL DEFAULT 0
);
CREATE INDEX cleanup_run ON kwdbml.cleanup (run_name);
COMMENT ON TABLE kwdbml.cleanup IS 'runs that nobody waits for any more and that must be stopped and deleted';
