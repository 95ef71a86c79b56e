-- What the turns' store asks of the database in one round trip each.
--
-- Every statement of these functions takes a snapshot of its own (READ COMMITTED), so a statement
-- sees what others have committed since the one before. Where a concurrent change makes an answer
-- unclear, the function looks again: each round means that somebody else has got further.

-- Whether the conversation is somebody else's: it belongs to the actor of its first event or,
-- before there is one, to whoever has a turn running in it.
create function turn_is_foreign(p_conversation text, p_subject text) returns boolean
language plpgsql as $$
begin
    return coalesce(
        (select actor <> 'user:' || p_subject from log
          where stream = 'conversation-' || p_conversation and version = 1),
        (select subject <> p_subject from turns where conversation = p_conversation and state = 'running'),
        false);
end
$$;

-- Gives up what has outlived its lease: this turn, and whatever runs in this conversation.
-- Waits for a commit in flight and leaves alone what it has closed.
create function turn_free(p_id text, p_conversation text) returns void
language plpgsql as $$
begin
    update turns
       set state = 'abandoned', ended_at = clock_timestamp(), code = 'turn_abandoned'
     where (id = p_id or conversation = p_conversation)
       and state = 'running' and lease_until < clock_timestamp();
end
$$;

create function turn_accept(
    p_id text, p_conversation text, p_subject text, p_kind text, p_payload bytea, p_hash text,
    p_node text, p_lease interval, out verdict text, out turn turns)
language plpgsql as $$
begin
    loop
        perform turn_free(p_id, p_conversation);
        if turn_is_foreign(p_conversation, p_subject) then
            verdict := 'foreign';
            return;
        end if;
        select * into turn from turns where id = p_id;
        if found then
            verdict := case when turn.subject = p_subject then 'existing' else 'reused' end;
            return;
        end if;
        select * into turn from turns where conversation = p_conversation and state = 'running';
        if found then
            verdict := 'busy';
            return;
        end if;
        insert into turns (id, conversation, subject, kind, payload, payload_hash, state, attempt, node,
                           lease_until, accepted_at)
        values (p_id, p_conversation, p_subject, p_kind, p_payload, p_hash, 'running', 1, p_node,
                clock_timestamp() + p_lease, clock_timestamp())
        on conflict do nothing
        returning * into turn;
        if found then
            exit;
        end if;
    end loop;
    verdict := 'accepted';
    -- From here on nobody else can start the conversation; somebody may have until now.
    if turn_is_foreign(p_conversation, p_subject) then
        delete from turns where id = p_id;
        verdict := 'foreign';
    end if;
end
$$;

create function turn_retry(
    p_id text, p_subject text, p_node text, p_lease interval, out verdict text, out turn turns)
language plpgsql as $$
declare
    seen turns;
begin
    loop
        select * into seen from turns where id = p_id and subject = p_subject;
        if not found then
            verdict := 'missing';
            return;
        end if;
        perform turn_free(p_id, seen.conversation);
        if turn_is_foreign(seen.conversation, p_subject) then
            verdict := 'foreign';
            return;
        end if;
        select * into turn from turns where id = p_id;
        if turn.state in ('running', 'committed') then
            verdict := 'existing';
            return;
        end if;
        select * into turn from turns where conversation = seen.conversation and state = 'running';
        if found then
            verdict := 'busy';
            return;
        end if;
        begin
            update turns
               set state = 'running', attempt = attempt + 1, node = p_node,
                   lease_until = clock_timestamp() + p_lease,
                   ended_at = null, code = null, cancel_requested = false, provisional_frames = 0
             where id = p_id and state in ('failed', 'abandoned')
            returning * into turn;
            if found then
                if turn_is_foreign(seen.conversation, p_subject) then
                    raise exception 'foreign' using errcode = 'MB404';
                end if;
                verdict := 'accepted';
                return;
            end if;
        exception
            when unique_violation then
                null;  -- another turn of the conversation was quicker: look again
            when sqlstate 'MB404' then
                verdict := 'foreign';
                return;
        end;
    end loop;
end
$$;

create function turn_request_cancel(p_id text, p_subject text) returns setof turns
language plpgsql as $$
begin
    return query
        update turns set cancel_requested = true
         where id = p_id and subject = p_subject and state = 'running' returning *;
    if not found then
        return query select * from turns where id = p_id and subject = p_subject;
    end if;
end
$$;
