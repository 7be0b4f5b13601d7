-- What the six privilege functions share. A thing is a model or a training pipeline.

-- Contract: the privileges that a text names, joined by |, in any case; ALL is all there are. 22004, 22023.
CREATE FUNCTION kwdbml._privileges(thing text, privilege text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text[] := CASE thing WHEN 'model' THEN ARRAY['SELECT', 'UPDATE', 'DELETE', 'EVALUATE', 'PREDICT', 'CREATE']
                               ELSE ARRAY['SELECT', 'DELETE', 'TRAIN'] END;
    named text[] := string_to_array(upper(privilege COLLATE "C"), '|');
    blanks constant text := E' \t\r\n';
    word text;
BEGIN
    IF privilege IS NULL THEN
        RAISE EXCEPTION 'privilege is NULL' USING ERRCODE = '22004', HINT = array_to_string(known, ', ') || ' or ALL, joined by |.';
    END IF;
    FOR i IN 1..greatest(cardinality(named), 1) LOOP
        word := btrim(coalesce(named[i], ''), blanks);
        IF word = 'ALL' THEN
            named := named || known;
        ELSIF word <> ALL (known) THEN
            RAISE EXCEPTION 'unknown privilege "%" on a %', left(btrim(split_part(privilege, '|', i), blanks), 200), thing
                USING ERRCODE = '22023', HINT = array_to_string(known, ', ') || ' or ALL, joined by |.';
        END IF;
    END LOOP;
    RETURN ARRAY(SELECT k FROM unnest(known) AS k WHERE k IN (SELECT btrim(n, blanks) FROM unnest(named) AS n));
END
$$;
COMMENT ON FUNCTION kwdbml._privileges(text, text) IS 'the privileges that a text names';

-- Contract: public for everyone, else the name of an existing role: exactly, else in lower case. 22004, 42704.
CREATE FUNCTION kwdbml._grantee(user_name text) RETURNS name LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer name;
    given text := btrim(user_name, E' \t\r\n');
    folded text := lower(given COLLATE "C");  -- as PostgreSQL folds an identifier
BEGIN
    IF user_name IS NULL THEN
        RAISE EXCEPTION 'user_name is NULL' USING ERRCODE = '22004', HINT = 'Name a role, or syspublic for everyone.';
    ELSIF folded IN ('syspublic', 'public') THEN
        RETURN 'public';
    END IF;
    SELECT r.rolname INTO answer FROM pg_roles r WHERE r.rolname::text IN (given, folded) ORDER BY r.rolname::text = given DESC LIMIT 1;
    IF answer IS NULL THEN
        RAISE EXCEPTION 'role "%" does not exist', left(given, 200) USING ERRCODE = '42704', HINT = 'Name a role, or syspublic for everyone.';
    END IF;
    RETURN answer;
END
$$;
COMMENT ON FUNCTION kwdbml._grantee(text) IS 'the role that a user_name means';

-- Contract: who has all of them; for public: everyone has.
CREATE FUNCTION kwdbml._has_all(thing text, id uuid, who name, wanted text[]) RETURNS boolean LANGUAGE plpgsql STABLE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF who = 'public' THEN
        RETURN wanted <@ CASE thing
            WHEN 'model' THEN ARRAY(SELECT g.privilege FROM kwdbml.model_privilege g WHERE g.model_id = id AND g.grantee = 'public')
            ELSE ARRAY(SELECT g.privilege FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = id AND g.grantee = 'public') END;
    END IF;
    RETURN (SELECT bool_and(CASE thing WHEN 'model' THEN kwdbml._model_right(id, w, who) ELSE kwdbml._pipeline_right(id, w, who) END)
            FROM unnest(wanted) AS w);
END
$$;
COMMENT ON FUNCTION kwdbml._has_all(text, uuid, name, text[]) IS 'whether a role has several privileges on a model or training pipeline';

-- Contract: whether a role may know of a model or training pipeline: who kept its id from better days may not.
CREATE FUNCTION kwdbml._has_any(thing text, id uuid, who name) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM unnest(kwdbml._privileges(thing, 'ALL')) AS p WHERE kwdbml._has_all(thing, id, who, ARRAY[p]));
END
$$;
COMMENT ON FUNCTION kwdbml._has_any(text, uuid, name) IS 'whether a role has any privilege on a model or training pipeline';

-- Contract: keeps the grants of a privilege until the transaction ends. A REPEATABLE READ transaction sees those that
-- were there when it began; where one was revoked since, it is told so here (40001), before it changes anything.
CREATE FUNCTION kwdbml._hold_grants(thing text, id uuid, wanted text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF thing = 'model' THEN
        PERFORM FROM kwdbml.model_privilege g WHERE g.model_id = id AND g.privilege = wanted FOR KEY SHARE;
    ELSE
        PERFORM FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = id AND g.privilege = wanted FOR KEY SHARE;
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._hold_grants(text, uuid, text) IS 'locks the grants of a privilege on a model or training pipeline';
REVOKE ALL ON FUNCTION kwdbml._hold_grants(text, uuid, text) FROM PUBLIC;

-- Contract: whether the model or pipeline of a request is the requester's to grant; else 42501, or 42704 when it is gone.
-- Whose it is gets locked first, so that reassign_owned and a REPEATABLE READ transaction meet, and before its grants, as
-- everybody does who changes the versions; against another grant too, or two that go on to do more would wait for each
-- other. Who may not grant locks nothing, and is refused also where it becomes his just now.
CREATE FUNCTION kwdbml._check_grantor(who name, thing text, id uuid) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown text;
    owned boolean := CASE thing WHEN 'model' THEN kwdbml._owns_model(id, who) ELSE kwdbml._owns_pipeline(id, who) END;
BEGIN
    IF owned AND thing = 'model' THEN
        PERFORM FROM kwdbml.model m WHERE m.id = _check_grantor.id FOR NO KEY UPDATE;
    ELSIF owned THEN
        PERFORM FROM kwdbml.pipeline p WHERE p.id = _check_grantor.id FOR NO KEY UPDATE;
    END IF;
    IF thing = 'model' THEN
        SELECT m.schema || '.' || m.name INTO shown FROM kwdbml.model m WHERE m.id = _check_grantor.id;
    ELSE
        SELECT p.schema || '.' || p.name INTO shown FROM kwdbml.pipeline p WHERE p.id = _check_grantor.id;
    END IF;
    IF shown IS NULL OR NOT kwdbml._has_any(thing, id, who) THEN
        RAISE EXCEPTION 'no such %', thing USING ERRCODE = '42704', HINT = 'It, or your right to see it, has gone meanwhile.';
    ELSIF NOT owned OR NOT (CASE thing WHEN 'model' THEN kwdbml._owns_model(id, who) ELSE kwdbml._owns_pipeline(id, who) END) THEN
        RAISE EXCEPTION 'permission denied to grant or revoke on % %', thing, shown
            USING ERRCODE = '42501', HINT = 'Its creator or an admin can; who was granted a privilege cannot pass it on.';
    END IF;
END
$$;
COMMENT ON FUNCTION kwdbml._check_grantor(name, text, uuid) IS 'whether a role may grant on a model or training pipeline';

CREATE FUNCTION kwdbml._do_grant(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    thing text := arguments ->> 'thing';
    id uuid := (arguments ->> 'id')::uuid;
    role name := kwdbml._grantee(arguments ->> 'user_name');
    named text[] := kwdbml._privileges(thing, arguments ->> 'privilege');
BEGIN
    PERFORM kwdbml._check_grantor(who, thing, id);
    IF thing = 'model' THEN
        INSERT INTO kwdbml.model_privilege (model_id, grantee, privilege, grantor)
        SELECT id, role, p, who FROM unnest(named) AS p ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO kwdbml.pipeline_privilege (pipeline_id, grantee, privilege, grantor)
        SELECT id, role, p, who FROM unnest(named) AS p ON CONFLICT DO NOTHING;
    END IF;
    RETURN to_jsonb(arguments ->> 'user_name');
END
$$;
COMMENT ON FUNCTION kwdbml._do_grant(name, jsonb) IS 'does what a grant asks for';
REVOKE ALL ON FUNCTION kwdbml._do_grant(name, jsonb) FROM PUBLIC;

CREATE FUNCTION kwdbml._do_revoke(who name, arguments jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    thing text := arguments ->> 'thing';
    id uuid := (arguments ->> 'id')::uuid;
    role name;
    named text[] := kwdbml._privileges(thing, arguments ->> 'privilege');
BEGIN
    PERFORM kwdbml._check_grantor(who, thing, id);
    BEGIN
        role := kwdbml._grantee(arguments ->> 'user_name');
    EXCEPTION WHEN undefined_object THEN
        -- what a role was granted here that is gone can be revoked still
        SELECT g.grantee INTO role FROM (
            SELECT m.grantee FROM kwdbml.model_privilege m WHERE thing = 'model' AND m.model_id = id
            UNION ALL
            SELECT p.grantee FROM kwdbml.pipeline_privilege p WHERE thing <> 'model' AND p.pipeline_id = id) AS g
        WHERE g.grantee::text = btrim(arguments ->> 'user_name') LIMIT 1;
        IF NOT FOUND THEN
            RAISE;
        END IF;
    END;
    IF thing = 'model' THEN
        DELETE FROM kwdbml.model_privilege g WHERE g.model_id = id AND g.grantee = role AND g.privilege = ANY (named);
    ELSE
        DELETE FROM kwdbml.pipeline_privilege g WHERE g.pipeline_id = id AND g.grantee = role AND g.privilege = ANY (named);
    END IF;
    RETURN to_jsonb(arguments ->> 'user_name');
END
$$;
COMMENT ON FUNCTION kwdbml._do_revoke(name, jsonb) IS 'does what a revoke asks for';
REVOKE ALL ON FUNCTION kwdbml._do_revoke(name, jsonb) FROM PUBLIC;

-- Contract: asks for a grant or revoke, its arguments checked as the caller first.
CREATE FUNCTION kwdbml._ask_privilege(kind text, thing text, id uuid, user_name text, privilege text) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN kwdbml._ask(kind, jsonb_build_object('thing', thing, 'id', id, 'user_name', user_name, 'privilege', privilege)) #>> '{}';
END
$$;
COMMENT ON FUNCTION kwdbml._ask_privilege(text, text, uuid, text, text) IS 'asks for a grant or revoke';
