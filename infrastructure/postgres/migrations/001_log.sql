-- The log, the turns and the one function that appends.

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

-- Appends a batch of saves in one transaction and says what became of each.
--
-- The lock comes first and is kept until the commit: positions are given out under it, so they have
-- no gaps and their order is the order of the commits. In READ COMMITTED every statement after it
-- sees all that was committed before. Statuses: 0 stored, 1 conflict, 2 the turn is not ours any more.
-- Saves are numbered from 1; `saves` says for each event which it belongs to, and they come in order.
CREATE FUNCTION append_batch(
    sizes int[],
    saves int[], streams text[], versions int[], types text[],
    conversations text[], turn_ids text[], actors text[], datas bytea[],
    expected_saves int[], expected_streams text[], expected_versions int[], expected_firsts int[],
    closing_saves int[], closing_turns text[], closing_attempts int[], closing_nodes text[],
    closing_frames int[], closing_firsts bigint[], closing_lasts bigint[], closing_outcomes bytea[],
    snapshot_saves int[], snapshot_streams text[], snapshot_versions int[],
    snapshot_state_versions int[], snapshot_states bytea[],
    key_saves int[], key_conversations text[], key_wrapped bytea[],
    OUT statuses int[], OUT firsts bigint[], OUT lasts bigint[], OUT stored_at timestamptz
) LANGUAGE plpgsql
-- The plan is known: an index look-up for each row of the batch, however small the tables still are.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
DECLARE
    head bigint;
    before bigint := 0;
    newest int;
    save int;
    held int[];
    shifts bigint[] := '{}';
BEGIN
    IF pg_advisory_xact_lock(append_lock()) IS NULL THEN END IF;  -- an expression: half the cost of a PERFORM
    SELECT l.position, l.recorded_at INTO head, stored_at FROM log l ORDER BY l.position DESC LIMIT 1;
    head := coalesce(head, 0);
    stored_at := greatest(stored_at, clock_timestamp());  -- a clock that is set back does not take us along
    statuses := array_fill(0, ARRAY[cardinality(sizes)]);
    firsts := array_fill(NULL::bigint, ARRAY[cardinality(sizes)]);
    lasts := firsts;

    -- Expected NULL: no version from the save's first one on may be there.
    FOR e IN 1 .. cardinality(expected_saves) LOOP
        newest := (SELECT l.version FROM log l WHERE l.stream = expected_streams[e] ORDER BY l.version DESC LIMIT 1);
        IF (CASE WHEN expected_versions[e] IS NULL THEN newest >= expected_firsts[e]
            ELSE coalesce(newest, 0) <> expected_versions[e] END) THEN
            statuses[expected_saves[e]] := 1;
        END IF;
    END LOOP;

    IF cardinality(closing_saves) > 0 THEN
        held := ARRAY(
            SELECT c.save
            FROM unnest(closing_saves, closing_turns, closing_attempts, closing_nodes)
                AS c (save, turn, attempt, node)
            JOIN turns t ON t.id = c.turn
            WHERE t.state = 'running' AND t.attempt = c.attempt AND t.node = c.node
            FOR NO KEY UPDATE OF t
        );
        IF cardinality(held) < cardinality(closing_saves) THEN
            FOREACH save IN ARRAY closing_saves LOOP
                IF NOT save = ANY (held) THEN
                    statuses[save] := 2;
                END IF;
            END LOOP;
        END IF;
    END IF;

    FOR save IN 1 .. cardinality(sizes) LOOP
        -- The save's event number e of the batch gets the position e + shifts[save].
        shifts := shifts || head - before;
        before := before + sizes[save];
        IF statuses[save] = 0 AND sizes[save] > 0 THEN
            firsts[save] := head + 1;
            head := head + sizes[save];
            lasts[save] := head;
        END IF;
    END LOOP;

    -- By their subscripts: unnesting eight arrays side by side costs more than the rest of a small batch.
    INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    SELECT e + shifts[saves[e]], stored_at,
        versions[e], streams[e], types[e], conversations[e], turn_ids[e], actors[e], datas[e]
    FROM generate_series(1, cardinality(saves)) AS e
    WHERE statuses[saves[e]] = 0;

    -- What was asked stands in the log now; the row keeps where.
    IF cardinality(closing_saves) > 0 THEN
        UPDATE turns t SET
            state = 'committed',
            first_position = coalesce(c.first, firsts[c.save]),
            last_position = coalesce(c.last, lasts[c.save]),
            provisional_frames = c.frames,
            outcome = c.outcome,
            ended_at = stored_at,
            payload = NULL,
            code = NULL
        FROM unnest(
            closing_saves, closing_turns, closing_frames, closing_firsts, closing_lasts, closing_outcomes
        ) AS c (save, turn, frames, first, last, outcome)
        WHERE t.id = c.turn AND statuses[c.save] = 0;
    END IF;

    IF cardinality(snapshot_saves) > 0 THEN
        INSERT INTO snapshots AS kept (stream, recorded_at, version, state_version, state)
        SELECT s.stream, stored_at, s.version, s.state_version, s.state
        FROM unnest(snapshot_saves, snapshot_streams, snapshot_versions, snapshot_state_versions, snapshot_states)
            AS s (save, stream, version, state_version, state)
        WHERE statuses[s.save] = 0
        ON CONFLICT (stream) DO UPDATE SET
            recorded_at = excluded.recorded_at, version = excluded.version,
            state_version = excluded.state_version, state = excluded.state
        WHERE kept.version <= excluded.version;
    END IF;

    -- Not ON CONFLICT DO NOTHING: a save that was sealed with another key than the kept one is refused.
    IF cardinality(key_saves) > 0 THEN
        INSERT INTO keys.conversations (conversation, wrapped)
        SELECT k.conversation, k.wrapped
        FROM unnest(key_saves, key_conversations, key_wrapped) AS k (save, conversation, wrapped)
        WHERE statuses[k.save] = 0;
    END IF;
END
$$;

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
