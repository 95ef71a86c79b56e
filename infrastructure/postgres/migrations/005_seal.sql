-- The Merkle tree over the log, and its signed checkpoints: written by the sealer, never changed.

-- 256 neighbouring hashes of every eighth level of the tree, and the root over them. Level 0 holds the
-- hashes of the events themselves: tile i those of the positions from 256 i + 1 on.
CREATE TABLE seal_tiles (
    index  bigint NOT NULL,
    level  int    NOT NULL,
    root   bytea  NOT NULL CHECK (octet_length(root) = 32),
    hashes bytea  NOT NULL CHECK (octet_length(hashes) = 8192),
    PRIMARY KEY (level, index)
);
-- Hashes cannot be compressed; nobody needs to try.
ALTER TABLE seal_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

-- `hashes` are those of the events that this checkpoint is the first to cover and that stand in no tile yet.
CREATE TABLE seal_checkpoints (
    number      bigint      NOT NULL PRIMARY KEY CHECK (number > 0),
    size        bigint      NOT NULL CHECK (size >= 0),
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    root        bytea       NOT NULL CHECK (octet_length(root) = 32),
    hashes      bytea       NOT NULL,
    note        text        NOT NULL
);
ALTER TABLE seal_checkpoints ALTER COLUMN hashes SET STORAGE EXTERNAL;
CREATE INDEX seal_checkpoints_size ON seal_checkpoints (size);

CREATE TRIGGER seal_tiles_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON seal_tiles
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE seal_tiles ENABLE ALWAYS TRIGGER seal_tiles_append_only;
CREATE TRIGGER seal_checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON seal_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE seal_checkpoints ENABLE ALWAYS TRIGGER seal_checkpoints_append_only;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'minutebook_app') THEN
        GRANT SELECT, INSERT ON seal_tiles, seal_checkpoints TO minutebook_app;
    END IF;
END
$$;
