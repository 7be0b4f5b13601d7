-- Contract: given the xmin of a row that the caller sees: whether the transaction that asks has written it. now() would
-- not do: two transactions can begin in the same microsecond.
CREATE FUNCTION kwdbml._written_here(xmin xid) RETURNS boolean LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written bigint := xmin::text::bigint;
    newest bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN false;
    END IF;
    newest := greatest(newest, pg_current_xact_id()::text::bigint + 1);
    -- xmin has 32 bits: give it the epoch of the newest transaction id, or the one before
    written := written + ((newest >> 32) << 32);
    IF written > newest THEN
        written := written - (1::bigint << 32);
    END IF;
    -- visible and still in progress: our own
    RETURN coalesce(pg_xact_status(written::text::xid8) = 'in progress', false);
END
$$;
COMMENT ON FUNCTION kwdbml._written_here(xid) IS 'whether a visible row was written by the transaction that asks';
