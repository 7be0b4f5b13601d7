-- What runs once on the way from 0.1.0 to 0.2.0: the parts of schema.sql and tables/ that are new.

-- Removing a pipeline is a request now, as everything that changes the registry.
DROP TRIGGER pipeline_doomed ON kwdbml.pipeline;
DROP FUNCTION kwdbml._pipeline_doomed();
DROP POLICY remove ON kwdbml.pipeline;
ALTER TABLE kwdbml.pipeline DROP COLUMN doomed;

DROP FUNCTION kwdbml._check_next_version(kwdbml.job, kwdbml.model, kwdbml.pipeline, boolean);
ALTER TABLE kwdbml.model_version ADD COLUMN holdout_hash text;
COMMENT ON COLUMN kwdbml.model_version.holdout_hash IS
    'SHA-256 over the rows that were held out when it was trained: scores on equal ones can be compared';
ALTER TABLE kwdbml.model_version ADD COLUMN holdout_metrics jsonb;
COMMENT ON COLUMN kwdbml.model_version.holdout_metrics IS
    'what the built-in evaluator measured on the rows of holdout_hash; unlike last_metrics it never changes';
-- A training with settings.promote is compared with a version, which must stay until the attempt has ended.
DROP FUNCTION kwdbml._land_version(kwdbml.job, jsonb, jsonb, timestamptz);
ALTER TABLE kwdbml.attempt ADD COLUMN compared_version_id uuid REFERENCES kwdbml.model_version ON DELETE SET NULL;
CREATE INDEX attempt_compared_version ON kwdbml.attempt (compared_version_id) WHERE compared_version_id IS NOT NULL;
COMMENT ON COLUMN kwdbml.attempt.compared_version_id IS
    'the active version whose score decides whether the new one is promoted; it stays for as long as the attempt is open';
DROP FUNCTION kwdbml._runs_as(text, text);
-- how long earlier trainings took: a person's latest by the content of their pipeline; by finished, because no other
-- index has that order and could be taken for it
CREATE INDEX job_trained ON kwdbml.job (creator, pipeline_hash, finished DESC) WHERE type = 'TRAIN' AND status = 'SUCCEEDED';
ALTER TABLE kwdbml.runtime ADD COLUMN engines jsonb NOT NULL DEFAULT '{}'
    CONSTRAINT engines_by_name CHECK (
        pg_catalog.jsonb_typeof(engines) = 'object'
        AND NOT pg_catalog.jsonb_path_exists(engines, 'strict $.* ? (@.type() != "object")'))
    CONSTRAINT local_takes_a_python CHECK (
        coalesce(engines -> 'local', '{}') - 'python' = '{}'
        AND coalesce(pg_catalog.jsonb_typeof(engines #> '{local,python}'), 'string') = 'string');
COMMENT ON COLUMN kwdbml.runtime.engines IS
    'what the pair means for an engine, by its name; local: {"python": a name that kwdbml worker --python gives}';
ALTER TYPE kwdbml.model_version_row ADD ATTRIBUTE lineage jsonb;
CREATE TYPE kwdbml.explain_row AS (item text, name text, found text, wanted text, verdict text, detail text);

-- Rights are asked by functions that see everything; who has the rights of a creator's role has the creator's.
CREATE OR REPLACE FUNCTION kwdbml._owns(who name, creator name) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN who = creator OR kwdbml._has_role(who, creator) OR kwdbml._is_admin(who);
END
$$;
COMMENT ON FUNCTION kwdbml._owns(name, name) IS 'whether who made something, has the rights of the role that made it, or is an admin';

-- These keep their plans, and nobody's search_path reaches them: policies ask them. SECURITY DEFINER, because a grantee
-- sees neither the grants of others nor, without SELECT, the versions. They tell whoever calls them the rights of any
-- role, but only on something whose random id he has, which he has from a row that he was allowed to see.
CREATE OR REPLACE FUNCTION kwdbml._pipeline_right(pipeline uuid, wanted text, who name) RETURNS boolean
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

CREATE OR REPLACE FUNCTION kwdbml._model_right(model uuid, wanted text, who name) RETURNS boolean
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

CREATE OR REPLACE FUNCTION kwdbml._version_right(version uuid, wanted text, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.model_version v
                   WHERE v.id = $1 AND kwdbml._model_right(v.model_id, $2, $3));
END
$$;
COMMENT ON FUNCTION kwdbml._version_right(uuid, text, name) IS 'whether who has a privilege on the model of a version';

-- For the policies on grants: asked of the model or pipeline itself, they would ask one another in a circle.
CREATE OR REPLACE FUNCTION kwdbml._owns_model(model uuid, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.model m WHERE m.id = $1 AND kwdbml._owns(who, m.creator));
END
$$;
COMMENT ON FUNCTION kwdbml._owns_model(uuid, name) IS 'whether who is the creator of a model, or an admin';

CREATE OR REPLACE FUNCTION kwdbml._owns_pipeline(pipeline uuid, who name) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM kwdbml.pipeline p WHERE p.id = $1 AND kwdbml._owns(who, p.creator));
END
$$;
COMMENT ON FUNCTION kwdbml._owns_pipeline(uuid, name) IS 'whether who is the creator of a pipeline, or an admin';

DROP POLICY import ON kwdbml.pipeline;
-- A schema is a name space: who may not use it takes no name there, and does not learn which are taken.
CREATE POLICY import ON kwdbml.pipeline FOR INSERT WITH CHECK (
    creator = current_user
    AND coalesce(pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace(pg_catalog.quote_ident(schema)), 'USAGE'), false));
DROP POLICY granted ON kwdbml.pipeline_privilege;
DROP POLICY admin ON kwdbml.pipeline_privilege;
DROP POLICY visible ON kwdbml.pipeline;
DROP POLICY granted ON kwdbml.model_privilege;
DROP POLICY admin ON kwdbml.model_privilege;
DROP POLICY visible ON kwdbml.model;
DROP POLICY visible ON kwdbml.model_version;
CREATE POLICY granted ON kwdbml.pipeline_privilege FOR SELECT USING (
    kwdbml._has_role(current_user, grantee) OR kwdbml._owns_pipeline(pipeline_id, current_user));
CREATE POLICY visible ON kwdbml.pipeline FOR SELECT USING (
    creator = current_user OR kwdbml._has_role(current_user, creator)
    OR EXISTS (SELECT FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = pipeline.id));
CREATE POLICY granted ON kwdbml.model_privilege FOR SELECT USING (
    kwdbml._has_role(current_user, grantee) OR kwdbml._owns_model(model_id, current_user));
CREATE POLICY visible ON kwdbml.model FOR SELECT USING (
    creator = current_user OR kwdbml._has_role(current_user, creator)
    OR EXISTS (SELECT FROM kwdbml.model_privilege g WHERE g.model_id = model.id));
CREATE POLICY visible ON kwdbml.model_version FOR SELECT USING (kwdbml._model_right(model_id, 'SELECT', current_user));

-- Its hint says whose the job may be.
CREATE OR REPLACE FUNCTION kwdbml._pipeline_in_use() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM kwdbml.job j WHERE j.pipeline_id = OLD.id AND j.status = 'RUNNING') THEN
        RAISE EXCEPTION 'training pipeline "%.%" is used by a running job', OLD.schema, OLD.name
            USING ERRCODE = '55006', HINT = 'Wait for the job or cancel it: SELECT * FROM kwdbml.show_jobs(ARRAY[''RUNNING'']). It may be another role''s, which you do not see: an admin can cancel it.';
    END IF;
    RETURN OLD;
END
$$;

-- A version goes alone or with its model; either way not while a running job refers to it.
CREATE FUNCTION kwdbml._version_in_use() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM kwdbml.job j WHERE j.model_version_id = OLD.id AND j.status = 'RUNNING')
       OR EXISTS (SELECT FROM kwdbml.attempt a JOIN kwdbml.job j ON j.id = a.job_id
                  WHERE a.compared_version_id = OLD.id AND a.ended IS NULL AND j.status = 'RUNNING') THEN
        RAISE EXCEPTION 'version % of the model is used by a running job', OLD.version
            USING ERRCODE = '55006', HINT = 'Wait for the job or cancel it: SELECT * FROM kwdbml.show_jobs(ARRAY[''RUNNING'']). It may be another role''s, which you do not see: an admin can cancel it.';
    END IF;
    RETURN OLD;
END
$$;
COMMENT ON FUNCTION kwdbml._version_in_use() IS 'keeps a version while a running job uses it';
CREATE TRIGGER version_in_use BEFORE DELETE ON kwdbml.model_version
    FOR EACH ROW EXECUTE FUNCTION kwdbml._version_in_use();

-- What a caller asks the registry to do. An INSERT shows who asks: requester is a default that no caller may fill, where
-- a SECURITY DEFINER function would only see its owner. The trigger checks the right and does it with the owner's power,
-- so that callers need no UPDATE or DELETE on the registry, which would let them lock or forge rows. No row ever stays.
CREATE TABLE kwdbml.request (
    kind text NOT NULL CHECK (kind IN (
        'import_model', 'set_active_version', 'remove_model', 'remove_pipeline', 'grant', 'revoke', 'reassign_owned')),
    requester name NOT NULL DEFAULT current_user,
    arguments jsonb NOT NULL CHECK (pg_catalog.jsonb_typeof(arguments) = 'object'),
    bundles bytea[],
    answer jsonb
);
COMMENT ON TABLE kwdbml.request IS 'what callers ask the registry to do; always empty, because a trigger does it at once';
ALTER TABLE kwdbml.request ENABLE ROW LEVEL SECURITY;
CREATE POLICY ask ON kwdbml.request FOR INSERT WITH CHECK (requester = current_user);
CREATE POLICY answer ON kwdbml.request FOR SELECT USING (requester = current_user);

CREATE FUNCTION kwdbml._request() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_WHEN = 'AFTER' THEN
        DELETE FROM kwdbml.request r WHERE r.requester = NEW.requester;
        RETURN NULL;
    END IF;
    NEW.answer := CASE NEW.kind
        WHEN 'import_model' THEN kwdbml._do_import_model(NEW.requester, NEW.arguments, NEW.bundles)
        WHEN 'set_active_version' THEN kwdbml._do_set_active_version(NEW.requester, NEW.arguments)
        WHEN 'remove_model' THEN kwdbml._do_remove_model(NEW.requester, NEW.arguments)
        WHEN 'remove_pipeline' THEN kwdbml._do_remove_pipeline(NEW.requester, NEW.arguments)
        WHEN 'grant' THEN kwdbml._do_grant(NEW.requester, NEW.arguments)
        WHEN 'revoke' THEN kwdbml._do_revoke(NEW.requester, NEW.arguments)
        WHEN 'reassign_owned' THEN kwdbml._do_reassign_owned(NEW.requester, NEW.arguments)
        END;
    NEW.arguments := '{}';
    NEW.bundles := NULL;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION kwdbml._request() IS 'does what a row of kwdbml.request asks for, and removes it';
-- The answer is read by INSERT … RETURNING, which needs the row to be there until the statement's end.
CREATE TRIGGER request_done BEFORE INSERT ON kwdbml.request FOR EACH ROW EXECUTE FUNCTION kwdbml._request();
CREATE TRIGGER request_gone AFTER INSERT ON kwdbml.request FOR EACH ROW EXECUTE FUNCTION kwdbml._request();
