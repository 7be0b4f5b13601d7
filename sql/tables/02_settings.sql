-- Settings of the deployment. Rows, not GUCs: anybody may SET a GUC. Only what an admin changed is a row; the
-- defaults are in kwdbml._setting(), so that a restored dump never collides with seeded rows.
CREATE TABLE kwdbml.settings (
    name text PRIMARY KEY CHECK (name IN ('bundle_limit', 'model_limit', 'default_engine', 'default_ttl', 'images')),
    value jsonb NOT NULL
        CONSTRAINT default_engine_is_local_or_kubeflow CHECK (name <> 'default_engine' OR value IN ('"local"', '"kubeflow"'))
        -- a star stands for the rest of a name, where a part of it begins
        CONSTRAINT images_is_a_list_of_names_in_full_or_up_to_a_star CHECK (name <> 'images'
            OR pg_catalog.jsonb_typeof(value) = 'array' AND NOT pg_catalog.jsonb_path_exists(value,
                'strict $[*] ? (@.type() != "string" || !(@ like_regex "^([*]|[a-z0-9][A-Za-z0-9._:/@-]*([/:@][*])?)$"))'))
        CONSTRAINT limits_and_ttl_are_numbers_from_0 CHECK (name NOT IN ('bundle_limit', 'model_limit', 'default_ttl')
            OR CASE pg_catalog.jsonb_typeof(value) WHEN 'number' THEN value::numeric BETWEEN 0 AND 1e15 ELSE false END)
);
COMMENT ON TABLE kwdbml.settings IS 'settings of the deployment, written by admins: bundle_limit and model_limit (bytes), default_engine, default_ttl (seconds), images (that any job may ask for)';

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
            WHEN 'images' THEN '[]'::jsonb
        END);
END
$$;
COMMENT ON FUNCTION kwdbml._setting(text) IS 'a setting of the deployment, or its default';
