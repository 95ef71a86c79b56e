-- The log and the turns. What appends to them is in 009_append.sql.

-- Fixed-width columns first: no byte of a row is padding. `conversation`, `turn` and `actor` are ''
-- for events of other applications that keep theirs in the same log.
CREATE TABLE log (
    position     bigint      NOT NULL PRIMARY KEY CHECK (position > 0),
    recorded_at  timestamptz NOT NULL,
    version      int         NOT NULL,
    stream       text        NOT NULL,
    type         text        NOT NULL,
    conversation text        NOT NULL,
    turn         text        NOT NULL,
    actor        text        NOT NULL,
    data         bytea       NOT NULL,
    UNIQUE (stream, version)
);

-- What an audit filters on. Keys with the position itself are all different and took 70 to 80 bytes an
-- event each; with its page of 4,096 positions they repeat, and PostgreSQL keeps a repeated key once: 14
-- bytes an event in a conversation of 1,000 turns. A page of a filter is a short walk along an index with
--     WHERE type = X AND position >> 12 >= P >> 12 AND position > P
--     ORDER BY position >> 12, position LIMIT N
-- which sorts no more than one page of positions at a time. The events of a turn stand together, and its
-- row in `turns` says where: an index on `turn` would cost an append a quarter more of WAL and find nothing
-- else. Times follow positions, so a few bytes for each range of the table are enough.
CREATE INDEX log_conversation ON log (conversation, (position >> 12));
CREATE INDEX log_type ON log (type, (position >> 12));
CREATE INDEX log_actor ON log (actor, (position >> 12));
CREATE INDEX log_recorded_at ON log USING brin (recorded_at) WITH (pages_per_range = 32, autosummarize = on);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the table % is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- ALWAYS: session_replication_role = replica does not get around it either.
ALTER TABLE log ENABLE ALWAYS TRIGGER log_append_only;

-- The newest position, 0 for an empty log. It is read from the log itself: a row that every append
-- updates would leave a dead version each time, all of them to be walked while a long query is open.
CREATE VIEW log_head AS
    SELECT coalesce(newest.position, 0) AS position, newest.recorded_at
    FROM (VALUES (1)) AS always (one)
    LEFT JOIN (SELECT position, recorded_at FROM log ORDER BY position DESC LIMIT 1) AS newest ON true;

CREATE TABLE snapshots (
    stream        text        NOT NULL PRIMARY KEY,
    recorded_at   timestamptz NOT NULL,
    version       int         NOT NULL,
    state_version int         NOT NULL,
    state         bytea       NOT NULL
);

CREATE TABLE turns (
    accepted_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_until        timestamptz NOT NULL,
    ended_at           timestamptz,
    first_position     bigint,
    last_position      bigint,
    attempt            int         NOT NULL DEFAULT 1,
    provisional_frames int         NOT NULL DEFAULT 0,
    cancel_requested   boolean     NOT NULL DEFAULT false,
    id                 text        NOT NULL PRIMARY KEY,
    conversation       text        NOT NULL,
    subject            text        NOT NULL,
    kind               text        NOT NULL,
    state              text        NOT NULL CHECK (state IN ('running', 'committed', 'failed', 'abandoned')),
    node               text        NOT NULL,
    code               text,
    payload_hash       bytea       NOT NULL,
    payload            bytea,
    -- What the turn's terminal frame said beside its positions, as JSON.
    outcome            bytea
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);

-- One running turn a conversation. The sweep for expired leases walks this index too: it holds
-- the running turns and nothing else. An index on lease_until would cost every renewal a new entry.
CREATE UNIQUE INDEX turns_one_running ON turns (conversation) WHERE state = 'running';

-- Whoever holds this lock gives out positions. Its number is ours alone within the database.
CREATE FUNCTION append_lock() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 7812943190436628';

-- The service does not need to own its tables. An operator migrates as the owner and lets the service
-- log in as a member of this group (GRANT minutebook_app TO somebody): it can add to the log and
-- read it, and no more. Where the owner may not create roles (managed clusters), an administrator
-- creates the group once, before migrating; without it everything works as the owner.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'minutebook_app') THEN
        CREATE ROLE minutebook_app NOLOGIN;
    END IF;
EXCEPTION
    -- Another database of this cluster is being migrated at the same moment, or we may not.
    WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'minutebook_app') THEN
        GRANT SELECT, INSERT ON log TO minutebook_app;
        GRANT SELECT ON log_head, migrations TO minutebook_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON turns, snapshots TO minutebook_app;
    END IF;
END
$$;
