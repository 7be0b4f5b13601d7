-- Settings of the deployment. Rows, not GUCs: anybody may SET a GUC. Only what an admin changed is a row; the
-- defaults are in kwdbml._setting(), so that a restored dump never collides with seeded rows.
CREATE TABLE kwdbml.settings (
    name text PRIMARY KEY CHECK (name IN ('bundle_limit', 'model_limit', 'default_engine', 'default_ttl')),
    value jsonb NOT NULL CHECK (CASE name
        WHEN 'default_engine' THEN value = '"local"'
        ELSE pg_catalog.jsonb_typeof(value) = 'number' AND value::numeric BETWEEN 0 AND 1e15 END)
);
COMMENT ON TABLE kwdbml.settings IS 'settings of the deployment, written by admins: bundle_limit and model_limit (bytes), default_engine, default_ttl (seconds)';

CREATE FUNCTION kwdbml._setting(setting text) RETURNS jsonb LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN coalesce(
        (SELECT s.value FROM kwdbml.settings s WHERE s.name = setting),
        CASE setting
            WHEN 'bundle_limit' THEN '134217728'::jsonb
            WHEN 'model_limit' THEN '4294967296'::jsonb
            WHEN 'default_engine' THEN '"local"'::jsonb
            WHEN 'default_ttl' THEN '0'::jsonb
        END);
END
$$;
COMMENT ON FUNCTION kwdbml._setting(text) IS 'a setting of the deployment, or its default';
