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
