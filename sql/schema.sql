-- Roles are the cluster's, not the database's: a second database with the extension finds them made.
DO $$
BEGIN
    IF pg_catalog.to_regrole('kwdbml_admin') IS NULL THEN
        CREATE ROLE kwdbml_admin NOLOGIN;
    END IF;
    IF pg_catalog.to_regrole('kwdbml_worker') IS NULL THEN
        CREATE ROLE kwdbml_worker NOLOGIN;
    END IF;
END
$$;

-- Made by the script, not by the control file: if somebody already owns a schema of this name, stop here
-- instead of building a security boundary in a house of theirs.
CREATE SCHEMA kwdbml;
COMMENT ON SCHEMA kwdbml IS 'machine learning as SQL: models, training pipelines and the jobs that make and use them';
