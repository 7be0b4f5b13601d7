-- Who may see and do what. Functions, views and a hand-written SELECT all pass through here, so that they agree.
-- An admin's policy is one of its own, not an OR: 0.04 ms against 386 ms for a page of 1,000,000 jobs.

CREATE FUNCTION kwdbml._has_role(who name, grantee name) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
RETURN grantee = 'public'
    -- to_regrole, because pg_has_role raises for a role that was dropped and would take the table down for everyone
    OR coalesce(pg_catalog.pg_has_role(who, pg_catalog.to_regrole(pg_catalog.quote_ident(grantee)), 'USAGE'), false);
COMMENT ON FUNCTION kwdbml._has_role(name, name) IS 'whether who has what is granted to grantee; false for roles that are gone';

CREATE FUNCTION kwdbml._is_admin(who name) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(pg_catalog.pg_has_role(who, pg_catalog.to_regrole('kwdbml_admin'), 'USAGE'), false);
COMMENT ON FUNCTION kwdbml._is_admin(name) IS 'whether a role has the rights of kwdbml_admin; superusers have';

CREATE FUNCTION kwdbml._owns(who name, creator name) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN who = creator OR kwdbml._has_role(who, creator) OR kwdbml._is_admin(who);
END
$$;
COMMENT ON FUNCTION kwdbml._owns(name, name) IS 'whether who made something, has the rights of the role that made it, or is an admin';

-- These keep their plans, and nobody's search_path reaches them: policies ask them. SECURITY DEFINER, because a grantee
-- sees neither the grants of others nor, without SELECT, the versions. They tell whoever calls them the rights of any
-- role, but only on something whose random id he has, which he has from a row that he was allowed to see.
CREATE FUNCTION kwdbml._pipeline_right(pipeline uuid, wanted text, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM kwdbml.pipeline p
        WHERE p.id = $1
          AND (kwdbml._owns(who, p.creator)
               OR EXISTS (SELECT FROM kwdbml.pipeline_privilege g
                          WHERE g.pipeline_id = p.id AND g.privilege = wanted AND kwdbml._has_role(who, g.grantee))));
END
$$;
COMMENT ON FUNCTION kwdbml._pipeline_right(uuid, text, name) IS 'whether who has a privilege on a pipeline';

CREATE FUNCTION kwdbml._model_right(model uuid, wanted text, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM kwdbml.model m
        WHERE m.id = $1
          AND (kwdbml._owns(who, m.creator)
               OR EXISTS (SELECT FROM kwdbml.model_privilege g
                          WHERE g.model_id = m.id AND g.privilege = wanted AND kwdbml._has_role(who, g.grantee))));
END
$$;
COMMENT ON FUNCTION kwdbml._model_right(uuid, text, name) IS 'whether who has a privilege on a model';

CREATE FUNCTION kwdbml._version_right(version uuid, wanted text, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.model_version v
                   WHERE v.id = $1 AND kwdbml._model_right(v.model_id, $2, $3));
END
$$;
COMMENT ON FUNCTION kwdbml._version_right(uuid, text, name) IS 'whether who has a privilege on the model of a version';

-- For the policies on grants: asked of the model or pipeline itself, they would ask one another in a circle.
CREATE FUNCTION kwdbml._owns_model(model uuid, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.model m WHERE m.id = $1 AND kwdbml._owns(who, m.creator));
END
$$;
COMMENT ON FUNCTION kwdbml._owns_model(uuid, name) IS 'whether who is the creator of a model, or an admin';

CREATE FUNCTION kwdbml._owns_pipeline(pipeline uuid, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.pipeline p WHERE p.id = $1 AND kwdbml._owns(who, p.creator));
END
$$;
COMMENT ON FUNCTION kwdbml._owns_pipeline(uuid, name) IS 'whether who is the creator of a pipeline, or an admin';

DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['installation', 'settings', 'runtime', 'pipeline', 'pipeline_privilege', 'model',
        'model_version', 'model_privilege', 'artefact', 'artefact_chunk', 'job', 'job_env', 'attempt', 'job_log', 'cleanup']
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE kwdbml.%I ENABLE ROW LEVEL SECURITY', t);
    END LOOP;
END
$$;

CREATE POLICY readable ON kwdbml.installation FOR SELECT USING (true);
CREATE POLICY readable ON kwdbml.settings FOR SELECT USING (true);
CREATE POLICY admin ON kwdbml.settings TO kwdbml_admin USING (true);
CREATE POLICY readable ON kwdbml.runtime FOR SELECT USING (true);
CREATE POLICY admin ON kwdbml.runtime TO kwdbml_admin USING (NOT builtin) WITH CHECK (NOT builtin);

CREATE POLICY granted ON kwdbml.pipeline_privilege FOR SELECT USING (
    kwdbml._has_role(current_user, grantee) OR kwdbml._owns_pipeline(pipeline_id, current_user));
CREATE POLICY visible ON kwdbml.pipeline FOR SELECT USING (
    creator = current_user OR kwdbml._has_role(current_user, creator)
    OR EXISTS (SELECT FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = pipeline.id));
CREATE POLICY admin ON kwdbml.pipeline FOR SELECT TO kwdbml_admin USING (true);
-- A schema is a name space: who may not use it takes no name there, and does not learn which are taken.
CREATE POLICY import ON kwdbml.pipeline FOR INSERT WITH CHECK (
    creator = current_user
    AND coalesce(pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace(pg_catalog.quote_ident(schema)), 'USAGE'), false));

CREATE POLICY granted ON kwdbml.model_privilege FOR SELECT USING (
    kwdbml._has_role(current_user, grantee) OR kwdbml._owns_model(model_id, current_user));
-- Any privilege shows the model itself, which is needed to use it; its versions, with their queries and metrics, SELECT.
CREATE POLICY visible ON kwdbml.model FOR SELECT USING (
    creator = current_user OR kwdbml._has_role(current_user, creator)
    OR EXISTS (SELECT FROM kwdbml.model_privilege g WHERE g.model_id = model.id));
CREATE POLICY admin ON kwdbml.model FOR SELECT TO kwdbml_admin USING (true);
CREATE POLICY visible ON kwdbml.model_version FOR SELECT USING (kwdbml._model_right(model_id, 'SELECT', current_user));

CREATE POLICY own ON kwdbml.job FOR SELECT USING (creator = current_user);
CREATE POLICY admin ON kwdbml.job FOR SELECT TO kwdbml_admin USING (true);
-- The privilege test of the submission functions once more: a hand-written INSERT passes here too.
CREATE POLICY submit ON kwdbml.job FOR INSERT WITH CHECK (
    creator = current_user AND status = 'RUNNING'
    AND CASE type
        WHEN 'TRAIN' THEN model_version_id IS NULL AND kwdbml._pipeline_right(pipeline_id, 'TRAIN', current_user)
        WHEN 'EVALUATE' THEN kwdbml._version_right(model_version_id, 'EVALUATE', current_user)
            AND (pipeline_id IS NULL OR kwdbml._pipeline_right(pipeline_id, 'SELECT', current_user))
        WHEN 'BATCH_PREDICT' THEN kwdbml._version_right(model_version_id, 'PREDICT', current_user)
            AND (pipeline_id IS NULL OR kwdbml._pipeline_right(pipeline_id, 'SELECT', current_user))
    END);
CREATE POLICY cancel ON kwdbml.job FOR UPDATE
    USING (creator = current_user AND status = 'RUNNING') WITH CHECK (creator = current_user AND status = 'CANCELED');
CREATE POLICY admin_cancel ON kwdbml.job FOR UPDATE TO kwdbml_admin
    USING (status = 'RUNNING') WITH CHECK (status = 'CANCELED');
CREATE POLICY admin_remove ON kwdbml.job FOR DELETE TO kwdbml_admin USING (true);

CREATE POLICY own ON kwdbml.job_env FOR SELECT USING (
    EXISTS (SELECT FROM kwdbml.job j WHERE j.id = job_id AND j.creator = current_user));
CREATE POLICY submit ON kwdbml.job_env FOR INSERT WITH CHECK (
    EXISTS (SELECT FROM kwdbml.job j WHERE j.id = job_id AND j.creator = current_user AND j.status = 'RUNNING'));
CREATE POLICY visible ON kwdbml.attempt FOR SELECT USING (EXISTS (SELECT FROM kwdbml.job j WHERE j.id = job_id));
CREATE POLICY visible ON kwdbml.job_log FOR SELECT USING (EXISTS (SELECT FROM kwdbml.job j WHERE j.id = job_id));
