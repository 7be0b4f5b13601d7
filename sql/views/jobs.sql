-- For people and BI tools: flat, ids as text, the phase beside the status. Nothing in it is volatile: a page of a list
-- would evaluate every row first.
CREATE VIEW kwdbml.jobs WITH (security_invoker = true) AS
SELECT j.id::text AS id,
       j.type::text AS type,
       j.status::text AS status,
       j.pipeline_name,
       j.model_name,
       j.model_version,
       j.creator::text AS creator,
       j.created,
       j.finished,
       j.settings,
       j.result,
       j.error,
       CASE
           WHEN j.status = 'RUNNING' THEN coalesce(CASE WHEN a.ended IS NULL THEN a.phase END, 'queued')
           WHEN j.status = 'CANCELED' AND a.number IS NOT NULL AND a.ended IS NULL THEN 'canceling'
           ELSE pg_catalog.lower(j.status::text)
       END AS phase,
       CASE WHEN j.status = 'SUCCEEDED' THEN 1 ELSE a.progress END::double precision AS progress,
       a.step,
       j.queue,
       CASE j.priority WHEN 1 THEN 'HIGH' WHEN -1 THEN 'LOW' ELSE 'NORMAL' END AS priority,
       j.labels,
       j.annotations,
       j.engine,
       a.number AS attempt,
       nullif(a.worker, '') AS worker,
       a.started,
       greatest(j.updated, a.updated) AS updated,
       coalesce(j.finished, CASE WHEN j.status = 'RUNNING' THEN pg_catalog.statement_timestamp() END) - a.started AS duration,
       j.rows_read,
       j.rows_dropped,
       j.rows_written,
       j.main_score,
       CASE WHEN j.status = 'RUNNING' AND (a.number IS NULL OR a.ended IS NOT NULL OR a.worker = '') THEN 'a worker for engine ' || j.engine END AS waiting_for,
       j.decision,
       j.data_query,
       j.data_hash,
       j.pipeline_hash,
       j.libraries
FROM kwdbml.job j
LEFT JOIN LATERAL (
    SELECT t.number, t.worker, t.phase, t.step, t.progress, t.started, t.updated, t.ended
    FROM kwdbml.attempt t WHERE t.job_id = j.id ORDER BY t.number DESC LIMIT 1) a ON true;
COMMENT ON VIEW kwdbml.jobs IS 'your jobs (an admin''s view: all), one flat row each, with phase, progress and lineage';
