-- How far each read model has got, and the rebuilds that are under way.

-- The tables of the read models themselves are made by the code, from what each says of its tables.
CREATE TABLE projections (
    name            text        NOT NULL PRIMARY KEY,
    version         int         NOT NULL,
    position        bigint      NOT NULL DEFAULT 0 CHECK (position >= 0),
    state           text        NOT NULL DEFAULT 'following' CHECK (state IN ('following', 'failed', 'rebuilding')),
    failed_position bigint,
    error           text,
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 1000);

-- One row for each part of a rebuild: parts 0, 1, … load the log up to `target` (each its own
-- conversations), part -1 goes on from there. The tables' names end in `__g` and the generation.
CREATE TABLE rebuilds (
    name       text        NOT NULL,
    part       int         NOT NULL,
    version    int         NOT NULL,
    generation bigint      NOT NULL,
    target     bigint      NOT NULL,
    position   bigint      NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, part)
);

CREATE SEQUENCE projection_generations;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'minutebook_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON projections, rebuilds TO minutebook_app;
        GRANT USAGE ON SEQUENCE projection_generations TO minutebook_app;
    END IF;
END
$$;
