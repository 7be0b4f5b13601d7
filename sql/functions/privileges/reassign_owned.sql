-- Contract: to_name; admins only (others: 42501 before any look-up). Models, versions, pipelines and ended jobs of from_name
-- become to_name's, and so does what was granted to it: DROP ROLE and ALTER ROLE … RENAME leave names behind, which a new
-- role of that name would find. from_name is taken exactly and need not be a role any more, but must have been heard of
-- (42704), so that a slip of the pen is no success. 55006 while a job of from_name is RUNNING.
CREATE FUNCTION kwdbml.reassign_owned(from_name text, to_name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN kwdbml._ask('reassign_owned', pg_catalog.jsonb_build_object('from_name', from_name, 'to_name', to_name)) OPERATOR(pg_catalog.#>>) '{}';
END
$$;
COMMENT ON FUNCTION kwdbml.reassign_owned(text, text) IS
    'gives models, training pipelines, ended jobs and privileges of a role, which may be gone already, to another role; admins only; call it before DROP ROLE and after ALTER ROLE … RENAME';

CREATE FUNCTION kwdbml._do_reassign_owned(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    former text := arguments ->> 'from_name';
    heir name;
BEGIN
    IF NOT kwdbml._is_admin(who) THEN
        RAISE EXCEPTION 'permission denied to reassign what a role owns'
            USING ERRCODE = '42501', HINT = 'Only admins can: superusers and members of kwdbml_admin.';
    END IF;
    heir := kwdbml._heir(former, arguments ->> 'to_name');
    IF heir <> former THEN
        PERFORM kwdbml._reassign_jobs(former, heir);
        UPDATE kwdbml.model m SET creator = heir WHERE m.creator = former;
        UPDATE kwdbml.model_version v SET creator = heir WHERE v.creator = former;
        UPDATE kwdbml.pipeline p SET creator = heir WHERE p.creator = former;
        PERFORM kwdbml._reassign_privileges(former, heir);
    END IF;
    RETURN to_jsonb(heir);
END
$$;
COMMENT ON FUNCTION kwdbml._do_reassign_owned(name, jsonb) IS 'does what reassign_owned asks for';
REVOKE ALL ON FUNCTION kwdbml._do_reassign_owned(name, jsonb) FROM PUBLIC;

-- Contract: the role that a to_name means, both names checked: 22004, 22023, 42704.
CREATE FUNCTION kwdbml._heir(former text, to_name text) RETURNS name LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    heir name;
BEGIN
    IF former IS NULL OR to_name IS NULL THEN
        RAISE EXCEPTION '% is NULL', CASE WHEN former IS NULL THEN 'from_name' ELSE 'to_name' END
            USING ERRCODE = '22004', HINT = 'Name both roles.';
    END IF;
    BEGIN
        heir := kwdbml._grantee(to_name);
    EXCEPTION WHEN undefined_object THEN
        RAISE EXCEPTION '%', SQLERRM USING ERRCODE = '42704', HINT = 'Name a role that exists: SELECT rolname FROM pg_roles lists them.';
    END;
    IF 'public' IN (former, heir) OR former = 'syspublic' THEN
        RAISE EXCEPTION 'public is everyone and no role' USING ERRCODE = '22023', HINT = 'Name two roles.';
    ELSIF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = former)
       AND NOT EXISTS (SELECT FROM kwdbml.job j WHERE j.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.model m WHERE m.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.model_version v WHERE v.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.pipeline p WHERE p.creator = former)
       AND NOT EXISTS (SELECT FROM kwdbml.model_privilege g WHERE former IN (g.grantee, g.grantor))
       AND NOT EXISTS (SELECT FROM kwdbml.pipeline_privilege g WHERE former IN (g.grantee, g.grantor))
       AND NOT EXISTS (SELECT FROM kwdbml.file_system f WHERE former = ANY (f.roles)) THEN
        RAISE EXCEPTION 'role "%" does not exist and has left nothing behind', former
            USING ERRCODE = '42704', HINT = 'The name is taken exactly, in upper and lower case.';
    END IF;
    RETURN heir;
END
$$;
COMMENT ON FUNCTION kwdbml._heir(text, text) IS 'the role that gets what another one owns';
REVOKE ALL ON FUNCTION kwdbml._heir(text, text) FROM PUBLIC;

-- Contract: 55006 unless all jobs of former have ended. A RUNNING job must not change hands: it reads data with its
-- creator's rights, and an admin would read with those of a superuser. It is left out of the UPDATE and looked for
-- afterwards, so that none slips through that was committed, or ended, in between.
CREATE FUNCTION kwdbml._reassign_jobs(former text, heir name) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Secrets are no inheritance: env is its creator's and the worker's alone, and an ended job needs none.
    DELETE FROM kwdbml.job_env e USING kwdbml.job j WHERE j.id = e.job_id AND j.creator = former AND j.status <> 'RUNNING';
    UPDATE kwdbml.job j SET creator = heir, creator_oid = to_regrole(quote_ident(heir))::oid
    WHERE j.creator = former AND j.status <> 'RUNNING' AND NOT EXISTS (SELECT FROM kwdbml.job_env e WHERE e.job_id = j.id);
    IF EXISTS (SELECT FROM kwdbml.job j WHERE j.creator = former) THEN
        RAISE EXCEPTION 'role "%" has running jobs', former
            USING ERRCODE = '55006', HINT = format(
                'Wait for them or cancel them: SELECT kwdbml.cancel_job(id) FROM kwdbml.show_jobs(ARRAY[''RUNNING'']) WHERE creator = %L.',
                former);
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._reassign_jobs(text, name) IS 'gives the ended jobs of a role to another one';
REVOKE ALL ON FUNCTION kwdbml._reassign_jobs(text, name) FROM PUBLIC;

-- Contract: what both had is had once.
CREATE FUNCTION kwdbml._reassign_privileges(former text, heir name) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE kwdbml.model_privilege g SET grantor = heir WHERE g.grantor = former;
    UPDATE kwdbml.pipeline_privilege g SET grantor = heir WHERE g.grantor = former;
    INSERT INTO kwdbml.model_privilege (model_id, grantee, privilege, grantor)
    SELECT g.model_id, heir, g.privilege, g.grantor FROM kwdbml.model_privilege g WHERE g.grantee = former ON CONFLICT DO NOTHING;
    INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege, grantor)
    SELECT g.pipeline_id, heir, g.privilege, g.grantor FROM kwdbml.pipeline_privilege g WHERE g.grantee = former ON CONFLICT DO NOTHING;
    DELETE FROM kwdbml.model_privilege g WHERE g.grantee = former;
    DELETE FROM kwdbml.pipeline_privilege g WHERE g.grantee = former;
    UPDATE kwdbml.file_system f
    SET roles = CASE WHEN heir = ANY (f.roles) THEN array_remove(f.roles, former::name) ELSE array_replace(f.roles, former::name, heir) END
    WHERE former::name = ANY (f.roles);
END
$$;
COMMENT ON FUNCTION kwdbml._reassign_privileges(text, name) IS 'gives the privileges of a role to another one';
REVOKE ALL ON FUNCTION kwdbml._reassign_privileges(text, name) FROM PUBLIC;
