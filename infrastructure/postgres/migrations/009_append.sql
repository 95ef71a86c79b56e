-- The function that appends, anew: the versions of a batch are checked in one look, what belongs to a save is
-- taken by its subscripts, and the settings of the planner are the connection's.

-- Appends a batch of saves in one transaction and says what became of each.
--
-- The lock comes first and is kept until the commit: positions are given out under it, so they have
-- no gaps and their order is the order of the commits. In READ COMMITTED every statement after it
-- sees all that was committed before. Statuses: 0 stored, 1 conflict, 2 the turn is not ours any more.
-- Saves are numbered from 1; `saves` says for each event which it belongs to, and they come in order.
-- Where a batch has none of what a group of arrays holds, these are NULL: an empty array costs as much as one
-- that is not.
--
-- The plan is known: an index look-up for each row of the batch, however small the tables still are. Whoever
-- calls this often says so once for its connection (`appending` in connections.py): settings of the function
-- itself would cost each call as much as one of its look-ups.
CREATE OR REPLACE FUNCTION append_batch(
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
) LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    before bigint := 0;
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
    FOREACH save IN ARRAY ARRAY(
        SELECT expected_saves[e]
        FROM generate_series(1, cardinality(expected_saves)) AS e
        CROSS JOIN LATERAL (SELECT max(l.version) AS version FROM log l WHERE l.stream = expected_streams[e]) AS newest
        WHERE CASE WHEN expected_versions[e] IS NULL THEN newest.version >= expected_firsts[e]
            ELSE coalesce(newest.version, 0) <> expected_versions[e] END
    ) LOOP
        statuses[save] := 1;
    END LOOP;

    IF cardinality(closing_saves) > 0 THEN
        held := ARRAY(
            SELECT closing_saves[c]
            FROM generate_series(1, cardinality(closing_saves)) AS c
            JOIN turns t ON t.id = closing_turns[c]
            WHERE t.state = 'running' AND t.attempt = closing_attempts[c] AND t.node = closing_nodes[c]
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

    -- By their subscripts, here and below: unnesting arrays side by side costs more than the rest of a small batch.
    INSERT INTO log (position, recorded_at, version, stream, type, conversation, turn, actor, data)
    SELECT e + shifts[saves[e]], stored_at,
        versions[e], streams[e], types[e], conversations[e], turn_ids[e], actors[e], datas[e]
    FROM generate_series(1, cardinality(saves)) AS e
    WHERE statuses[saves[e]] = 0;

    -- What was asked stands in the log now; the row keeps where.
    IF cardinality(closing_saves) > 0 THEN
        UPDATE turns t SET
            state = 'committed',
            first_position = coalesce(closing_firsts[c], firsts[closing_saves[c]]),
            last_position = coalesce(closing_lasts[c], lasts[closing_saves[c]]),
            provisional_frames = closing_frames[c],
            outcome = closing_outcomes[c],
            ended_at = stored_at,
            payload = NULL,
            code = NULL
        FROM generate_series(1, cardinality(closing_saves)) AS c
        WHERE t.id = closing_turns[c] AND statuses[closing_saves[c]] = 0;
    END IF;

    IF cardinality(snapshot_saves) > 0 THEN
        INSERT INTO snapshots AS kept (stream, recorded_at, version, state_version, state)
        SELECT snapshot_streams[s], stored_at, snapshot_versions[s], snapshot_state_versions[s], snapshot_states[s]
        FROM generate_series(1, cardinality(snapshot_saves)) AS s
        WHERE statuses[snapshot_saves[s]] = 0
        ON CONFLICT (stream) DO UPDATE SET
            recorded_at = excluded.recorded_at, version = excluded.version,
            state_version = excluded.state_version, state = excluded.state
        WHERE kept.version <= excluded.version;
    END IF;

    -- Not ON CONFLICT DO NOTHING: a save that was sealed with another key than the kept one is refused.
    IF cardinality(key_saves) > 0 THEN
        INSERT INTO keys.conversations (conversation, wrapped)
        SELECT key_conversations[k], key_wrapped[k]
        FROM generate_series(1, cardinality(key_saves)) AS k
        WHERE statuses[key_saves[k]] = 0;
    END IF;
END
$$;
