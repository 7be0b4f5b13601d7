-- Bundles and models as bytes: rows of at most 8 MiB, because pg_dump of one value of 600 MB fails and takes the
-- backup of everything with it. They belong to a pipeline or to a version and go with it.
CREATE TABLE kwdbml.artefact (
    id uuid PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    pipeline_id uuid REFERENCES kwdbml.pipeline ON DELETE CASCADE,
    model_version_id uuid REFERENCES kwdbml.model_version ON DELETE CASCADE,
    kind text NOT NULL CHECK (kind IN ('pipeline', 'transformer', 'model')),
    bytes bigint NOT NULL,
    sha256 text NOT NULL,
    -- neither only inside the transaction that lands a model: chunks go first, the version last
    CHECK (pg_catalog.num_nonnulls(pipeline_id, model_version_id) <= 1),
    UNIQUE (pipeline_id, kind),
    UNIQUE (model_version_id, kind)
);
CREATE TABLE kwdbml.artefact_chunk (
    artefact_id uuid NOT NULL REFERENCES kwdbml.artefact ON DELETE CASCADE,
    seq integer NOT NULL,
    chunk bytea NOT NULL CHECK (pg_catalog.octet_length(chunk) <= 8388608),
    PRIMARY KEY (artefact_id, seq)
);
-- Bundles are compressed already.
ALTER TABLE kwdbml.artefact_chunk ALTER COLUMN chunk SET STORAGE EXTERNAL;
COMMENT ON TABLE kwdbml.artefact IS 'bundles of pipelines and of model versions';
COMMENT ON TABLE kwdbml.artefact_chunk IS 'the bytes of an artefact, in order of seq';
