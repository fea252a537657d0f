-- What graced keeps in PostgreSQL 13 or newer: jobs, hosts with their leases, and what is done to
-- them. It may be run again at any time. Made for churn: what waits or is in hand is in a small
-- table of its own, what has ended in another one.
--
-- States of a job that has not ended: 0 ready, 1 not due yet, 2 taken, 3 staged (part of a stream
-- that has not come to its end).

DO $$ BEGIN
    IF getdatabaseencoding() NOT IN ('UTF8', 'SQL_ASCII') THEN
        RAISE EXCEPTION 'the database has the encoding %, and jobs may have any character;'
            ' make another one with ENCODING ''UTF8''', getdatabaseencoding();
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS meta (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL
);

DO $$ DECLARE
    v_found integer := (SELECT max(version) FROM meta);
BEGIN
    IF v_found > 1 THEN
        RAISE EXCEPTION 'its tables are those of a newer graced (version %, ours is 1);'
            ' upgrade graced on this host', v_found;
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS queues (
    name text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    max_waiting integer
);

-- A lease: one row for each daemon and queue.
CREATE TABLE IF NOT EXISTS hosts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    daemon text NOT NULL,
    name text NOT NULL,
    place text NOT NULL,  -- where its workers' locks are: what has the same can see them
    session bigint NOT NULL DEFAULT 0,  -- grows with each connection: of an earlier one nothing counts
    lease double precision NOT NULL,  -- seconds
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires timestamptz NOT NULL,
    UNIQUE (queue, daemon)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE IF NOT EXISTS jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    state smallint NOT NULL,
    priority smallint NOT NULL DEFAULT 0,
    due timestamptz NOT NULL,
    submitted timestamptz NOT NULL,
    failures integer NOT NULL DEFAULT 0,
    max_attempts integer,
    token bigint NOT NULL DEFAULT 0,  -- grows each time the job is handed out
    host bigint,
    owner text,
    began timestamptz,
    stream bigint,
    unique_key text,
    cancelled boolean NOT NULL DEFAULT false,  -- in hand, and not to be any more
    watched boolean NOT NULL DEFAULT false,  -- its end is to be notified
    progress jsonb,
    schedule text,
    scheduled timestamptz,
    payload text NOT NULL,
    evidence text  -- of the last attempt that failed
) WITH (fillfactor = 80, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX IF NOT EXISTS jobs_ready ON jobs (queue, priority DESC, due, id) WHERE state = 0;
CREATE INDEX IF NOT EXISTS jobs_later ON jobs (queue, due) WHERE state = 1;
CREATE INDEX IF NOT EXISTS jobs_taken ON jobs (host) WHERE state = 2;
CREATE INDEX IF NOT EXISTS jobs_cancelled ON jobs (host) WHERE cancelled;
CREATE INDEX IF NOT EXISTS jobs_staged ON jobs (stream, id) WHERE state = 3;
CREATE UNIQUE INDEX IF NOT EXISTS jobs_unique ON jobs (queue, unique_key)
    WHERE unique_key IS NOT NULL;

CREATE TABLE IF NOT EXISTS streams (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL,
    host bigint,
    opened timestamptz NOT NULL DEFAULT clock_timestamp(),  -- -infinity: aborted
    staged integer NOT NULL DEFAULT 0,  -- so many jobs until now
    due timestamptz  -- it has come to its end
);

CREATE TABLE IF NOT EXISTS ended (
    id bigint PRIMARY KEY,
    queue text NOT NULL,
    dead boolean NOT NULL,
    priority smallint NOT NULL,
    due timestamptz NOT NULL,
    submitted timestamptz NOT NULL,
    began timestamptz,
    at timestamptz NOT NULL,
    failures integer NOT NULL,
    max_attempts integer,
    token bigint NOT NULL,
    unique_key text,
    schedule text,
    scheduled timestamptz,
    payload text NOT NULL,
    result text,
    evidence text
) WITH (autovacuum_vacuum_cost_delay = 0);
CREATE INDEX IF NOT EXISTS ended_listed ON ended (queue, dead, id);
CREATE INDEX IF NOT EXISTS ended_done ON ended (queue, at) WHERE NOT dead;

-- Hand-outs that came to nothing.
CREATE TABLE IF NOT EXISTS attempts (
    job bigint NOT NULL,
    token bigint NOT NULL,
    number integer NOT NULL,
    began timestamptz,
    ended timestamptz NOT NULL,
    host text,
    owner text,
    counts boolean NOT NULL,
    evidence text,
    PRIMARY KEY (job, token)
);

-- Where schedules stand, in seconds since the epoch.
CREATE TABLE IF NOT EXISTS schedules (
    queue text NOT NULL,
    name text NOT NULL,
    rule text NOT NULL,
    since bigint NOT NULL,  -- instants up to here are none of it
    last bigint,  -- the last one that was kept
    PRIMARY KEY (queue, name)
);


-- The name under which the keepers of a queue are woken.
CREATE OR REPLACE FUNCTION bell(queue text) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$ SELECT 'graced_' || md5(current_schema() || '.' || bell.queue) $$;

-- Whether the stream of a staged job is accepted: then the job waits, if it is published or not.
CREATE OR REPLACE FUNCTION accepted(p_stream bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$ SELECT EXISTS (SELECT FROM streams WHERE id = p_stream AND due IS NOT NULL) $$;

-- How many jobs wait, at most `most` of them.
CREATE OR REPLACE FUNCTION waiting(p_queue text, most integer) RETURNS integer
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT least(most, (SELECT count(*) FROM (
            SELECT FROM jobs WHERE queue = p_queue AND state = 0 LIMIT most) AS ready)
        + (SELECT count(*) FROM (
            SELECT FROM jobs WHERE queue = p_queue AND state = 1 LIMIT most) AS later)
        + (SELECT count(*) FROM (
            SELECT FROM streams s JOIN jobs j ON j.stream = s.id AND j.state = 3
            WHERE s.queue = p_queue AND s.due IS NOT NULL LIMIT most) AS staged))::integer
$$;

-- The same for whoever has so many more; not counted while there is room for all numbers from the
-- first job's to the last one's.
CREATE OR REPLACE FUNCTION waiting_with(p_queue text, most integer, more integer) RETURNS integer
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT CASE WHEN span + more <= most THEN span ELSE waiting(p_queue, most + 1) END::integer
    FROM (SELECT coalesce(max(id) - min(id) + 1, 0) AS span FROM jobs) AS numbers
$$;

-- Why there is no room for further jobs, so many; NULL if there is.
CREATE OR REPLACE FUNCTION no_room(most integer, there integer, more integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $$
    SELECT CASE WHEN there + more > most THEN format(
        'the queue is full: %s jobs wait and max_waiting is %s, too few for %s more;'
        ' submit fewer, or later', there, most, more)
        END
$$;

-- Why a queue takes no further jobs, so many; NULL if it does, or has an open one with that key.
CREATE OR REPLACE FUNCTION refusal(p_queue text, more integer, p_key text) RETURNS text
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT no_room(max_waiting, waiting_with(p_queue, max_waiting, more), more) FROM queues
        WHERE name = p_queue AND max_waiting IS NOT NULL
            AND NOT EXISTS (SELECT FROM jobs WHERE queue = p_queue AND unique_key = p_key)
$$;

-- Accept jobs of one kind; return their numbers, that of an earlier job where one with the same
-- key waits or is in hand, and none where its schedule has had one for that instant.
CREATE OR REPLACE FUNCTION accept(
    p_queue text, payloads text[], delay double precision, p_priority integer, p_key text,
    p_max integer, p_schedule text, p_scheduled double precision
) RETURNS bigint[]
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_due timestamptz := v_now + make_interval(secs => delay);
    v_state smallint := CASE WHEN delay > 0 THEN 1 ELSE 0 END;
    v_ids bigint[] := '{}';
    v_id bigint;
BEGIN
    IF p_schedule IS NOT NULL THEN
        INSERT INTO schedules AS s
            VALUES (p_queue, p_schedule, '', p_scheduled::bigint, p_scheduled::bigint)
            ON CONFLICT (queue, name) DO UPDATE SET last = excluded.last
            WHERE s.last IS NULL OR s.last < excluded.last;
        IF NOT FOUND THEN
            RETURN v_ids;
        END IF;
    END IF;
    IF p_key IS NULL THEN
        WITH made AS (
            INSERT INTO jobs (queue, state, priority, due, submitted, max_attempts, schedule,
                scheduled, payload)
            SELECT p_queue, v_state, p_priority, v_due, v_now, p_max, p_schedule,
                to_timestamp(p_scheduled), p.payload
            FROM unnest(payloads) WITH ORDINALITY AS p (payload, n) ORDER BY p.n
            RETURNING id)
        SELECT array_agg(id ORDER BY id) INTO v_ids FROM made;
    ELSE
        LOOP
            INSERT INTO jobs (queue, state, priority, due, submitted, max_attempts, unique_key,
                schedule, scheduled, payload)
            VALUES (p_queue, v_state, p_priority, v_due, v_now, p_max, p_key, p_schedule,
                to_timestamp(p_scheduled), payloads[1])
            ON CONFLICT (queue, unique_key) WHERE unique_key IS NOT NULL DO NOTHING
            RETURNING id INTO v_id;
            EXIT WHEN FOUND;
            SELECT id INTO v_id FROM jobs WHERE queue = p_queue AND unique_key = p_key;
            IF FOUND THEN
                RETURN ARRAY[v_id];
            END IF;
        END LOOP;
        v_ids := ARRAY[v_id];
    END IF;
    IF delay < 60 THEN  -- who waits longer than that will have looked before
        PERFORM pg_notify(bell(p_queue), 'new');
    END IF;
    RETURN v_ids;
END $$;

-- The same for who can't wait for another's transaction that is open and has the same unique key: a
-- keeper has a lease to renew.
CREATE OR REPLACE FUNCTION accept_soon(
    patience text, p_queue text, payloads text[], delay double precision, p_priority integer,
    p_key text, p_max integer, p_schedule text, p_scheduled double precision
) RETURNS bigint[]
LANGUAGE plpgsql SET search_path FROM CURRENT SET lock_timeout = 0
AS $$
BEGIN
    PERFORM set_config('lock_timeout', patience, true);
    RETURN accept(p_queue, payloads, delay, p_priority, p_key, p_max, p_schedule, p_scheduled);
EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE =
        'a transaction that is open has submitted a job with the same unique key; try again later';
END $$;

-- Watch a schedule: one that is new, or has another rule, starts now.
CREATE OR REPLACE FUNCTION adopt(
    p_queue text, p_name text, p_rule text, p_since bigint, p_forget boolean, p_now bigint
) RETURNS TABLE (since_then bigint, last_kept bigint)
LANGUAGE sql SET search_path FROM CURRENT
AS $$
    INSERT INTO schedules AS s (queue, name, rule, since) VALUES (p_queue, p_name, p_rule, p_now)
        ON CONFLICT (queue, name) DO UPDATE SET rule = p_rule,
            since = CASE WHEN s.rule <> p_rule THEN p_now ELSE coalesce(p_since, s.since) END,
            last = CASE WHEN s.rule <> p_rule OR (p_since IS NOT NULL AND p_forget) THEN NULL
                ELSE s.last END
    RETURNING s.since, s.last
$$;

-- For everybody: a job, accepted when this transaction is committed, or not at all.
CREATE OR REPLACE FUNCTION submit(
    queue text, payload jsonb, delay interval DEFAULT '0', priority integer DEFAULT 0,
    unique_key text DEFAULT NULL, max_attempts integer DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal text := refusal(submit.queue, 1, submit.unique_key);
BEGIN
    IF v_refusal IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '54000', MESSAGE = v_refusal;
    ELSIF submit.queue IS NULL OR submit.payload IS NULL OR submit.delay IS NULL
            OR submit.priority IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = '22004',
            MESSAGE = 'submit(): queue, payload, delay and priority can''t be NULL';
    ELSIF octet_length(submit.payload::text) > 1048576 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = 'submit(): a payload is at most 1048576 bytes of JSON';
    ELSIF NOT submit.priority BETWEEN -100 AND 100 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = 'submit(): priority is a number from -100 to 100';
    ELSIF submit.delay NOT BETWEEN '0'::interval AND '3660 days'::interval THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = 'submit(): delay is an interval from 0 to ten years';
    ELSIF octet_length(submit.unique_key) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = 'submit(): unique_key has 1 to 200 bytes';
    ELSIF NOT submit.max_attempts BETWEEN 1 AND 1000000 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = 'submit(): max_attempts is a number from 1 to 1000000';
    END IF;
    RETURN (accept(submit.queue, ARRAY[submit.payload::text],
        extract(epoch FROM submit.delay)::double precision, submit.priority, submit.unique_key,
        submit.max_attempts, NULL, NULL))[1];
END $$;

-- Jobs in hand, as a host is told of them.
DO $$ BEGIN
    CREATE TYPE handout AS (
        kind text, id bigint, token bigint, failures integer, max_attempts integer,
        submitted double precision, due double precision, scheduled double precision, owner text,
        daemon text, text text);
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;

-- What else a host is told, in the same columns.
CREATE OR REPLACE FUNCTION told(
    kind text, id bigint, token bigint DEFAULT NULL, failures integer DEFAULT NULL,
    max_attempts integer DEFAULT NULL, submitted double precision DEFAULT NULL,
    owner text DEFAULT NULL, daemon text DEFAULT NULL, text text DEFAULT NULL
) RETURNS handout
LANGUAGE sql IMMUTABLE SET search_path FROM CURRENT
AS $$
    SELECT ROW(kind, id, token, failures, max_attempts, submitted, NULL, NULL, owner, daemon,
        text)::handout
$$;

-- Take a lease, or go on with the one that this daemon has; return it, and what is in hand here.
CREATE OR REPLACE FUNCTION host_join(
    p_queue text, p_daemon text, p_name text, p_place text, p_lease double precision,
    p_max_waiting integer
) RETURNS SETOF handout
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_host bigint;
    v_session bigint;
BEGIN
    INSERT INTO queues AS q (name, max_waiting) VALUES (p_queue, p_max_waiting)
        ON CONFLICT (name) DO UPDATE SET max_waiting = p_max_waiting
        WHERE q.max_waiting IS DISTINCT FROM p_max_waiting;
    INSERT INTO hosts AS h (queue, daemon, name, place, lease, expires)
        VALUES (p_queue, p_daemon, p_name, p_place, p_lease,
            clock_timestamp() + make_interval(secs => p_lease))
        ON CONFLICT (queue, daemon) DO UPDATE
            SET expires = excluded.expires, lease = excluded.lease, name = excluded.name,
                session = h.session + 1
        RETURNING id, session INTO v_host, v_session;
    RETURN NEXT told('host', v_host, v_session, daemon => p_daemon);
    RETURN QUERY SELECT 'held', j.id, j.token, j.failures, j.max_attempts,
        extract(epoch FROM j.submitted)::double precision,
                extract(epoch FROM j.due)::double precision,
        extract(epoch FROM j.scheduled)::double precision, j.owner, h.daemon, j.payload
        FROM jobs j JOIN hosts h ON h.id = j.host
        WHERE j.state = 2 AND h.queue = p_queue AND h.place = p_place;
END $$;

-- Forget a stream that does not come to its end: a step of it, the others are maintain()'s.
CREATE OR REPLACE FUNCTION stream_abort(p_stream bigint) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    v_count integer;
BEGIN
    UPDATE streams SET host = NULL, opened = '-infinity' WHERE id = p_stream AND due IS NULL;
    IF FOUND THEN
        DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE stream = p_stream AND state = 3
            ORDER BY id LIMIT 1000);
        GET DIAGNOSTICS v_count = ROW_COUNT;
        DELETE FROM streams WHERE id = p_stream AND v_count < 1000;
    END IF;
END $$;

-- Give a lease back, if nothing is in hand under it.
CREATE OR REPLACE FUNCTION host_leave(p_host bigint) RETURNS void
LANGUAGE sql SET search_path FROM CURRENT
AS $$
    SELECT stream_abort(id) FROM streams WHERE streams.host = p_host AND streams.due IS NULL;
    DELETE FROM hosts WHERE id = p_host
        AND NOT EXISTS (SELECT FROM jobs WHERE jobs.host = p_host AND state = 2);
$$;

-- A hand-out has come to nothing: the job waits again, for so many seconds or as long as before,
-- or it is dead. Whoever calls this has seen to it that it is that hand-out.
CREATE OR REPLACE FUNCTION fail(
    p_id bigint, p_failures integer, p_after double precision, p_dead boolean, p_evidence text,
    p_host text
) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_queue text;
BEGIN
    IF p_evidence IS NOT NULL THEN
        INSERT INTO attempts SELECT id, token, greatest(p_failures, failures + 1), began, v_now,
                p_host, owner, p_failures > failures, p_evidence
            FROM jobs WHERE id = p_id AND state = 2 ON CONFLICT DO NOTHING;
    END IF;
    IF NOT p_dead THEN
        UPDATE jobs SET state = CASE WHEN p_after > 0 THEN 1 ELSE 0 END,
            due = coalesce(v_now + make_interval(secs => p_after), due), failures = p_failures,
            host = NULL, owner = NULL, progress = NULL, evidence = coalesce(p_evidence, evidence)
            WHERE id = p_id;
        RETURN;
    END IF;
    WITH gone AS (DELETE FROM jobs WHERE id = p_id RETURNING *)
    INSERT INTO ended (id, queue, dead, priority, due, submitted, began, at, failures,
        max_attempts, token, unique_key, schedule, scheduled, payload, evidence)
    SELECT id, queue, true, priority, due, submitted, began, v_now, p_failures, max_attempts,
        token, unique_key, schedule, scheduled, payload, coalesce(p_evidence, evidence) FROM gone
    RETURNING queue INTO v_queue;
    PERFORM pg_notify(bell(v_queue), 'ended:' || p_id);
END $$;

-- Hosts that were not heard of lose their jobs to the others.
CREATE OR REPLACE FUNCTION expire(
    p_queue text, p_max integer, p_first double precision, p_factor double precision,
    p_limit double precision
) RETURNS SETOF handout
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_gone record;
    v_job record;
    v_evidence text;
    v_count integer;
BEGIN
    FOR v_gone IN
        DELETE FROM hosts WHERE id IN (
            SELECT id FROM hosts WHERE queue = p_queue AND expires < clock_timestamp()
            FOR UPDATE SKIP LOCKED)
        RETURNING id, name, daemon, lease
    LOOP
        v_count := 0;
        v_evidence := json_build_object('reason', format('host %s was not heard of for %s s',
            v_gone.name, v_gone.lease), 'host', v_gone.name)::text;
        FOR v_job IN SELECT id, failures, coalesce(max_attempts, p_max) AS most, cancelled FROM jobs
            WHERE state = 2 AND host = v_gone.id FOR UPDATE
        LOOP
            v_count := v_count + 1;
            IF v_job.cancelled THEN
                PERFORM fail(v_job.id, v_job.failures, 0, true, '{"reason":"cancelled","cancelled":true}', NULL);
            ELSE
                PERFORM fail(v_job.id, v_job.failures + 1,
                    least(p_limit, p_first * p_factor ^ least(v_job.failures, 64)),
                    v_job.failures + 1 >= v_job.most, v_evidence, v_gone.name);
            END IF;
        END LOOP;
        PERFORM host_leave(v_gone.id);  -- what it had staged
        RETURN NEXT told('expired', v_gone.id, NULL, v_count, NULL, v_gone.lease, v_gone.name,
            v_gone.daemon);
    END LOOP;
END $$;

-- A keeper's turn: settle what has ended, accept what is new, renew the lease, and hand jobs to
-- the idle; all or nothing, in one round trip. 'lost' alone is returned if the lease is over.
CREATE OR REPLACE FUNCTION turn(
    p_queue text, p_host bigint, p_session bigint, p_lease double precision,
    s_id bigint[], s_token bigint[], s_kind smallint[], s_failures integer[],
    s_after double precision[], s_text text[],
    b_first integer[], b_delay double precision[], b_priority integer[], b_key text[],
    b_max integer[], b_schedule text[], b_scheduled double precision[], payloads text[],
    adopted text[], idle text[], looks boolean, policy double precision[], patience text
) RETURNS SETOF handout
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_now timestamptz;
    v_job record;
    v_place text;
    v_name text;
    v_paused boolean;
    v_ids bigint[];
    v_watched bigint[];
    v_count integer;
    v_last integer;
    v_most integer;
    v_waiting integer;
    v_is_known boolean;
    v_refusal text;
    v_kind text;
    v_due timestamptz;
    v_next double precision;
    v_more boolean := false;
BEGIN
    UPDATE hosts SET expires = clock_timestamp() + make_interval(secs => p_lease), lease = p_lease
        WHERE id = p_host AND session = p_session AND queue = p_queue
        RETURNING place, name INTO v_place, v_name;
    IF NOT FOUND THEN
        RETURN NEXT told('lost', p_host);
        RETURN;
    END IF;
    v_now := clock_timestamp();
    IF cardinality(adopted) > 0 THEN
        RETURN QUERY UPDATE jobs j SET host = p_host FROM hosts h
            WHERE j.state = 2 AND j.host = h.id AND h.queue = p_queue AND h.place = v_place
                AND j.owner = ANY (adopted)
            RETURNING 'held', j.id, j.token, j.failures, j.max_attempts,
                extract(epoch FROM j.submitted)::double precision,
                extract(epoch FROM j.due)::double precision,
                extract(epoch FROM j.scheduled)::double precision, j.owner, h.daemon, j.payload;
    END IF;
    IF cardinality(s_id) > 0 THEN
        -- 0: done
        WITH said AS (
            SELECT * FROM unnest(s_id, s_token, s_kind, s_failures, s_text)
                AS s (id, token, kind, failures, result) WHERE kind = 0),
        gone AS (
            DELETE FROM jobs j USING said s
            WHERE j.id = s.id AND j.token = s.token AND j.state = 2
            RETURNING j.*, s.result),
        kept AS (
            INSERT INTO ended (id, queue, dead, priority, due, submitted, began, at, failures,
                max_attempts, token, unique_key, schedule, scheduled, payload, result)
            SELECT id, queue, false, priority, due, submitted, began, v_now, failures,
                max_attempts, token, unique_key, schedule, scheduled, payload, result FROM gone)
        SELECT array_agg(id), array_agg(id) FILTER (WHERE watched) INTO v_ids, v_watched FROM gone;
        PERFORM pg_notify(bell(p_queue), 'ended:' || w) FROM unnest(v_watched) AS w;
        -- 1: waits again, 2: dead; either is dead if it was cancelled
        IF EXISTS (SELECT FROM unnest(s_kind) AS k WHERE k > 0) THEN
            FOR v_job IN
                SELECT j.id, j.cancelled, j.failures AS failed, s.kind, s.failures, s.after, s.text
                FROM unnest(s_id, s_token, s_kind, s_failures, s_after, s_text)
                    AS s (id, token, kind, failures, after, text)
                JOIN jobs j ON j.id = s.id AND j.token = s.token AND j.state = 2
                WHERE s.kind > 0 FOR UPDATE OF j
            LOOP
                v_ids := v_ids || v_job.id;
                IF v_job.cancelled THEN
                    PERFORM fail(v_job.id, v_job.failed, NULL, true, '{"reason":"cancelled","cancelled":true}',
                        v_name);
                ELSE
                    PERFORM fail(v_job.id, v_job.failures, v_job.after, v_job.kind = 2,
                        v_job.text, v_name);
                END IF;
            END LOOP;
        END IF;
        IF coalesce(cardinality(v_ids), 0) < cardinality(s_id) THEN
            RETURN QUERY SELECT t.* FROM unnest(s_id, s_token) AS s (id, token)
                CROSS JOIN LATERAL told('late', s.id, s.token) t
                WHERE v_ids IS NULL OR s.id <> ALL (v_ids);
        END IF;
    END IF;
    FOR n IN 1 .. cardinality(b_first) LOOP
        v_last := coalesce(b_first[n + 1] - 1, cardinality(payloads));
        IF n = 1 THEN  -- counted once for all
            SELECT max_waiting, waiting_with(p_queue, max_waiting, cardinality(payloads))
                INTO v_most, v_waiting
                FROM queues WHERE name = p_queue AND max_waiting IS NOT NULL;
        END IF;
        v_is_known := EXISTS (SELECT FROM jobs WHERE queue = p_queue AND unique_key = b_key[n]);
        v_refusal := CASE WHEN NOT v_is_known
            THEN no_room(v_most, v_waiting, v_last - b_first[n] + 1) END;
        v_kind := CASE WHEN v_refusal IS NULL THEN 'new' ELSE 'full' END;
        IF v_refusal IS NULL AND b_key[n] IS NULL THEN
            v_ids := accept(p_queue, payloads[b_first[n] : v_last], b_delay[n], b_priority[n],
                NULL, b_max[n], b_schedule[n], b_scheduled[n]);
        ELSIF v_refusal IS NULL THEN
            BEGIN
                v_ids := accept_soon(patience, p_queue, payloads[b_first[n] : v_last],
                    b_delay[n], b_priority[n], b_key[n], b_max[n], b_schedule[n], b_scheduled[n]);
            EXCEPTION WHEN object_not_in_prerequisite_state THEN
                v_refusal := SQLERRM;
                v_kind := 'busy';
                patience := '1ms';  -- once is enough in a turn
            END;
        END IF;
        IF v_refusal IS NULL AND NOT v_is_known THEN
            v_waiting := v_waiting + coalesce(cardinality(v_ids), 0);
        END IF;
        RETURN NEXT told(v_kind, n, text => coalesce(v_refusal, v_ids::text));
    END LOOP;
    IF looks THEN
        RETURN QUERY SELECT * FROM expire(p_queue, policy[1]::integer, policy[2], policy[3],
            policy[4]);
    END IF;
    SELECT paused INTO v_paused FROM queues WHERE name = p_queue;
    IF cardinality(idle) > 0 THEN
        SELECT min(due) INTO v_due FROM jobs WHERE queue = p_queue AND state = 1;
        IF v_due <= v_now THEN
            UPDATE jobs SET state = 0 WHERE id IN (
                SELECT id FROM jobs WHERE queue = p_queue AND state = 1 AND due <= v_now
                ORDER BY due LIMIT 1000 FOR UPDATE SKIP LOCKED);
            SELECT min(due) INTO v_due FROM jobs WHERE queue = p_queue AND state = 1;
        END IF;
        v_next := extract(epoch FROM v_due - v_now);
        IF NOT coalesce(v_paused, false) THEN
            RETURN QUERY WITH found AS MATERIALIZED (
                SELECT j.id FROM jobs j WHERE j.queue = p_queue AND j.state = 0
                ORDER BY j.priority DESC, j.due, j.id LIMIT cardinality(idle)
                FOR UPDATE SKIP LOCKED),
            numbered AS MATERIALIZED (SELECT f.id, row_number() OVER () AS n FROM found f)
            UPDATE jobs j SET state = 2, token = j.token + 1, host = p_host,
                    owner = idle[n.n], began = v_now
                FROM numbered n WHERE j.id = n.id
                RETURNING 'job', j.id, j.token, j.failures, j.max_attempts,
                    extract(epoch FROM j.submitted)::double precision,
                extract(epoch FROM j.due)::double precision,
                    extract(epoch FROM j.scheduled)::double precision, j.owner, NULL::text,
                    j.payload;
            GET DIAGNOSTICS v_count = ROW_COUNT;
            v_more := v_count = cardinality(idle);
        END IF;
    END IF;
    IF EXISTS (SELECT FROM jobs WHERE host = p_host AND cancelled) THEN
        RETURN QUERY SELECT t.* FROM jobs j CROSS JOIN LATERAL told('cancel', j.id, j.token) t
            WHERE j.host = p_host AND j.cancelled;
    END IF;
    RETURN NEXT ROW('turn', p_host, NULL, v_more::integer, coalesce(v_paused, false)::integer,
        v_next, NULL, NULL, NULL, NULL, NULL)::handout;
END $$;

-- What can wait, a step of it: to publish streams that have come to their end, and to forget what
-- was done long ago. Return whether there is more of it.
CREATE OR REPLACE FUNCTION maintain(p_queue text, keep double precision, most integer)
RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    v_old timestamptz := clock_timestamp() - make_interval(secs => keep);  -- an index finds it
    v_stream record;
    v_count integer;
BEGIN
    SELECT id, due INTO v_stream FROM streams WHERE queue = p_queue AND streams.due IS NOT NULL
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE jobs SET state = CASE WHEN v_stream.due > clock_timestamp() THEN 1 ELSE 0 END,
                due = v_stream.due, stream = NULL
            WHERE id IN (SELECT id FROM jobs WHERE stream = v_stream.id AND state = 3
                ORDER BY id LIMIT most);
        GET DIAGNOSTICS v_count = ROW_COUNT;
        IF v_count < most THEN
            DELETE FROM streams WHERE id = v_stream.id;
        END IF;
        IF v_stream.due < clock_timestamp() + interval '60 s' THEN
            PERFORM pg_notify(bell(p_queue), 'new');
        END IF;
        RETURN true;
    END IF;
    PERFORM stream_abort(id) FROM streams  -- that was aborted, or of a client that has died
        WHERE queue = p_queue AND streams.due IS NULL AND host IS NULL
            AND opened < clock_timestamp() - interval '1 day';
    IF FOUND THEN
        RETURN true;
    END IF;
    WITH gone AS (
        DELETE FROM ended WHERE id IN (
            SELECT id FROM ended WHERE queue = p_queue AND NOT dead AND at < v_old
            ORDER BY at LIMIT most FOR UPDATE SKIP LOCKED)
        RETURNING id),
    tried AS (DELETE FROM attempts WHERE job IN (SELECT id FROM gone))
    SELECT count(*) INTO v_count FROM gone;
    RETURN v_count = most;
END $$;

-- A stream of jobs that are accepted all or none: begun, continued, and come to its end.
CREATE OR REPLACE FUNCTION stream_open(p_queue text, p_host bigint) RETURNS bigint
LANGUAGE sql SET search_path FROM CURRENT
AS $$ INSERT INTO streams (queue, host) VALUES (p_queue, p_host) RETURNING id $$;

CREATE OR REPLACE FUNCTION stream_stage(
    p_queue text, p_stream bigint, payloads text[], p_priority integer, p_max integer
) RETURNS bigint[]
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_refusal text;
    v_staged integer;
    v_ids bigint[];
BEGIN
    UPDATE streams SET staged = staged + cardinality(payloads)
        WHERE id = p_stream AND due IS NULL AND opened > '-infinity' RETURNING staged INTO v_staged;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the stream is gone; submit it again';
    END IF;
    v_refusal := refusal(p_queue, v_staged, NULL);
    IF v_refusal IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = '54000', MESSAGE = v_refusal;
    END IF;
    WITH made AS (
        INSERT INTO jobs (queue, state, priority, due, submitted, max_attempts, stream, payload)
        SELECT p_queue, 3, p_priority, clock_timestamp(), clock_timestamp(), p_max, p_stream,
            p.payload
        FROM unnest(payloads) WITH ORDINALITY AS p (payload, n) ORDER BY p.n
        RETURNING id)
    SELECT array_agg(id ORDER BY id) INTO v_ids FROM made;
    RETURN v_ids;
END $$;

CREATE OR REPLACE FUNCTION stream_commit(p_stream bigint, delay double precision) RETURNS bigint
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_queue text;
    v_staged bigint;
BEGIN
    UPDATE streams SET due = clock_timestamp() + make_interval(secs => delay), host = NULL
        WHERE id = p_stream AND due IS NULL AND opened > '-infinity'
        RETURNING queue, staged INTO v_queue, v_staged;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'the stream is gone; submit it again';
    END IF;
    PERFORM pg_notify(bell(v_queue), 'staged');
    RETURN v_staged;
END $$;

-- What is done to single jobs: each returns the numbers of those that it is refused for, and why.
CREATE OR REPLACE FUNCTION retry(p_queue text, ids bigint[])
RETURNS TABLE (job bigint, why text)
LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET jit = off SET lock_timeout = '500ms'
AS $$
DECLARE
    v_id bigint;
    v_state smallint;
    v_old ended;
    v_now timestamptz := clock_timestamp();
BEGIN
    FOREACH v_id IN ARRAY ids LOOP
        SELECT state INTO v_state FROM jobs
            WHERE id = v_id AND queue = p_queue AND (state <> 3 OR accepted(stream)) FOR UPDATE;
        IF FOUND THEN
            IF v_state = 2 THEN
                RETURN QUERY SELECT v_id, 'is being worked on';
            ELSE
                UPDATE jobs SET state = 0, due = least(due, v_now), stream = NULL WHERE id = v_id;
            END IF;
            CONTINUE;
        END IF;
        SELECT * INTO v_old FROM ended WHERE id = v_id AND queue = p_queue FOR UPDATE;
        IF NOT FOUND THEN
            RETURN QUERY SELECT v_id, 'no such job';
        ELSIF NOT v_old.dead THEN
            RETURN QUERY SELECT v_id, 'is done';
        ELSE
            BEGIN
                INSERT INTO jobs (id, queue, state, priority, due, submitted, max_attempts, token,
                    unique_key, schedule, scheduled, payload)
                    OVERRIDING SYSTEM VALUE
                    VALUES (v_id, p_queue, 0, v_old.priority, v_now, v_old.submitted,
                        v_old.max_attempts, v_old.token, v_old.unique_key, v_old.schedule,
                        v_old.scheduled, v_old.payload)
                    ON CONFLICT (queue, unique_key) WHERE unique_key IS NOT NULL DO NOTHING;
                IF FOUND THEN
                    DELETE FROM ended WHERE id = v_id;
                ELSE
                    RETURN QUERY SELECT v_id, format('job %s with the same unique key is open', id)
                        FROM jobs WHERE queue = p_queue AND unique_key = v_old.unique_key;
                END IF;
            EXCEPTION WHEN lock_not_available THEN
                PERFORM set_config('lock_timeout', '1ms', true);  -- once is enough
                RETURN QUERY SELECT v_id,
                    'a transaction that is open has submitted a job with the same unique key';
            END;
        END IF;
    END LOOP;
    PERFORM pg_notify(bell(p_queue), 'new');
END $$;

CREATE OR REPLACE FUNCTION drop_jobs(p_queue text, ids bigint[])
RETURNS TABLE (job bigint, why text)
LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    v_gone bigint[];
    v_taken bigint[];
BEGIN
    WITH known AS (
        SELECT id, state FROM jobs
            WHERE id = ANY (ids) AND queue = p_queue AND (state <> 3 OR accepted(stream))
            ORDER BY id FOR UPDATE),
    live AS (DELETE FROM jobs WHERE id IN (SELECT id FROM known WHERE state <> 2) RETURNING id),
    over AS (DELETE FROM ended WHERE id = ANY (ids) AND queue || '' = p_queue RETURNING id)
    SELECT (SELECT array_agg(id) FROM (TABLE live UNION ALL TABLE over) g),
        (SELECT array_agg(id) FROM known WHERE state = 2)
        INTO v_gone, v_taken;
    DELETE FROM attempts WHERE attempts.job = ANY (v_gone);
    PERFORM pg_notify(bell(p_queue), 'ended:' || g) FROM unnest(v_gone[1:1000]) AS g;
    RETURN QUERY SELECT i, CASE WHEN i = ANY (v_taken) THEN 'is being worked on'
        ELSE 'no such job' END
        FROM unnest(ids) AS i WHERE v_gone IS NULL OR i <> ALL (v_gone);
END $$;

CREATE OR REPLACE FUNCTION cancel(p_queue text, ids bigint[])
RETURNS TABLE (job bigint, why text)
LANGUAGE plpgsql SET search_path FROM CURRENT
    SET enable_seqscan = off SET jit = off
AS $$
DECLARE
    v_id bigint;
    v_job record;
    v_dead boolean;
    v_told boolean := false;
BEGIN
    FOREACH v_id IN ARRAY ids LOOP
        SELECT id, state, failures INTO v_job FROM jobs
            WHERE id = v_id AND queue = p_queue AND (state <> 3 OR accepted(stream)) FOR UPDATE;
        IF NOT FOUND THEN
            SELECT dead INTO v_dead FROM ended WHERE id = v_id AND queue = p_queue;
            IF v_dead IS NOT TRUE THEN
                RETURN QUERY SELECT v_id,
                    CASE WHEN v_dead IS NULL THEN 'no such job' ELSE 'is done' END;
            END IF;
        ELSIF v_job.state = 2 THEN
            UPDATE jobs SET cancelled = true WHERE id = v_id;
            v_told := true;
        ELSE
            PERFORM fail(v_id, v_job.failures, 0, true, '{"reason":"cancelled","cancelled":true}', NULL);
            RETURN QUERY SELECT v_id, '';  -- that one has ended now
        END IF;
    END LOOP;
    IF v_told THEN
        PERFORM pg_notify(bell(p_queue), 'cancel');
    END IF;
END $$;

CREATE OR REPLACE FUNCTION pause(p_queue text, p_paused boolean) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
BEGIN
    INSERT INTO queues AS q (name, paused) VALUES (p_queue, p_paused)
        ON CONFLICT (name) DO UPDATE SET paused = p_paused;
    PERFORM pg_notify(bell(p_queue), 'paused');
END $$;

-- Of these jobs, those that there are, as they are listed.
CREATE OR REPLACE FUNCTION shown(p_queue text, ids bigint[])
RETURNS TABLE (job bigint, listing json)
LANGUAGE sql STABLE SET search_path FROM CURRENT
    SET enable_seqscan = off SET jit = off
AS $$
    SELECT id, json_build_object('id', id, 'state',
            CASE WHEN j.state = 2 THEN 'taken' ELSE 'waiting' END,
            'attempts', failures + (j.state = 2)::integer, 'max_attempts', max_attempts,
            'priority', priority, 'unique', unique_key, 'token', token,
            'submitted', extract(epoch FROM submitted), 'due', extract(epoch FROM coalesce(
                CASE WHEN j.state = 3 THEN (SELECT s.due FROM streams s WHERE s.id = j.stream) END,
                due)),
            'began', extract(epoch FROM began), 'cancelling', cancelled, 'ended', NULL, 'owner', owner,
            'host', (SELECT name FROM hosts h WHERE h.id = j.host), 'payload', payload,
            'result', NULL, 'evidence', evidence, 'dead', false, 'progress', progress,
            'schedule', schedule, 'scheduled', extract(epoch FROM scheduled))
        FROM jobs j WHERE id = ANY (ids) AND queue = p_queue
            AND (j.state <> 3 OR accepted(j.stream))
    UNION ALL
    SELECT id, json_build_object('id', id, 'state', CASE WHEN dead THEN 'dead' ELSE 'done' END,
            'attempts', failures + (NOT dead)::integer, 'max_attempts', max_attempts,
            'priority', priority, 'unique', unique_key, 'token', token,
            'submitted', extract(epoch FROM submitted), 'due', extract(epoch FROM due),
            'began', extract(epoch FROM began), 'cancelling', false,
            'ended', extract(epoch FROM at), 'owner', NULL, 'host', NULL, 'payload', payload,
            'result', result, 'evidence', evidence, 'dead', dead, 'progress', NULL,
            'schedule', schedule, 'scheduled', extract(epoch FROM scheduled))
        FROM ended WHERE id = ANY (ids) AND queue || '' = p_queue  -- not by an index of all done
    ORDER BY 1
$$;

-- Jobs of a state, or of all, in the order of their numbers: one, or as many as have 1 MiB of text.
-- Each state has its index.
CREATE OR REPLACE FUNCTION listed(p_queue text, p_state text, after bigint, most integer)
RETURNS TABLE (job bigint, listing json)
LANGUAGE sql STABLE SET search_path FROM CURRENT
    SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
    WITH taken AS MATERIALIZED (
        SELECT id, octet_length(payload) + coalesce(octet_length(evidence), 0) AS size FROM jobs
            WHERE queue = p_queue AND state = 2)
    SELECT * FROM shown(p_queue, ARRAY(SELECT id FROM (
        SELECT id, row_number() OVER upto AS n, sum(size) OVER upto AS size FROM (
        (SELECT id, octet_length(payload) + coalesce(octet_length(evidence), 0) AS size FROM jobs
            WHERE queue = p_queue AND id > after AND state < 2
            AND coalesce(p_state, 'waiting') = 'waiting' ORDER BY id LIMIT most)
        UNION ALL
        (SELECT j.id, octet_length(j.payload) FROM streams s CROSS JOIN LATERAL (
                SELECT id, payload FROM jobs WHERE stream = s.id AND state = 3 AND id > after
                ORDER BY id LIMIT most) j
            WHERE s.queue = p_queue AND s.due IS NOT NULL
            AND coalesce(p_state, 'waiting') = 'waiting')
        UNION ALL
        (SELECT id, size FROM taken WHERE id > after AND coalesce(p_state, 'taken') = 'taken'
            ORDER BY id LIMIT most)
        UNION ALL
        (SELECT id, octet_length(payload) + coalesce(octet_length(result), 0)
            + coalesce(octet_length(evidence), 0)
            FROM ended WHERE queue = p_queue AND NOT dead AND id > after
            AND coalesce(p_state, 'done') = 'done' ORDER BY id LIMIT most)
        UNION ALL
        (SELECT id, octet_length(payload) + coalesce(octet_length(result), 0)
            + coalesce(octet_length(evidence), 0)
            FROM ended WHERE queue = p_queue AND dead AND id > after
            AND coalesce(p_state, 'dead') = 'dead' ORDER BY id LIMIT most)
        ORDER BY 1 LIMIT most) AS first WINDOW upto AS (ORDER BY id)) AS sized
        WHERE n = 1 OR size <= 1048576 ORDER BY id))
$$;

-- One job, to be told of when it ends where that is wanted.
CREATE OR REPLACE FUNCTION look(p_queue text, p_id bigint, p_watch boolean) RETURNS json
LANGUAGE plpgsql SET search_path FROM CURRENT
AS $$
DECLARE
    v_state smallint;
BEGIN
    IF p_watch THEN
        UPDATE jobs SET watched = true WHERE id = p_id AND queue = p_queue AND NOT watched
            RETURNING state INTO v_state;
        IF v_state = 0 THEN  -- who claimed meanwhile has passed over it, as over all that is locked
            PERFORM pg_notify(bell(p_queue), 'new');
        END IF;
    END IF;
    RETURN (SELECT listing FROM shown(p_queue, ARRAY[p_id]));
END $$;

CREATE OR REPLACE FUNCTION attempts_of(p_job bigint) RETURNS SETOF json
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT json_build_object('token', token, 'attempt', number,
        'began', extract(epoch FROM began), 'ended', extract(epoch FROM ended), 'owner', owner,
        'host', host, 'counts', counts, 'evidence', evidence)
    FROM (SELECT *, sum(octet_length(evidence)) OVER (ORDER BY token DESC) AS size
        FROM attempts WHERE job = p_job ORDER BY token DESC LIMIT 100) a
    WHERE size <= 1048576 OR size = octet_length(evidence)  -- the last ones; one at least
    ORDER BY token
$$;

-- Each count is that of one index. Of those that are ready, the oldest of each priority is found.
CREATE OR REPLACE FUNCTION counts(p_queue text)
RETURNS TABLE (waiting bigint, taken bigint, done bigint, dead bigint, oldest double precision,
    paused boolean)
LANGUAGE sql STABLE SET search_path FROM CURRENT
    SET enable_seqscan = off SET jit = off
AS $$
    WITH RECURSIVE oldest AS (
        (SELECT priority, due FROM jobs WHERE queue = p_queue AND state = 0
            ORDER BY priority DESC, due LIMIT 1)
        UNION ALL
        SELECT lower.priority, lower.due FROM oldest, LATERAL (
            SELECT priority, due FROM jobs
            WHERE queue = p_queue AND state = 0 AND priority < oldest.priority
            ORDER BY priority DESC, due LIMIT 1) AS lower)
    SELECT (SELECT count(*) FROM jobs WHERE queue = p_queue AND state = 0)
            + (SELECT count(*) FROM jobs WHERE queue = p_queue AND state = 1)
            + (SELECT count(*) FROM streams s JOIN jobs j ON j.stream = s.id AND j.state = 3
                WHERE s.queue = p_queue AND s.due IS NOT NULL),
        (SELECT count(*) FROM jobs WHERE queue = p_queue AND state = 2),
        (SELECT count(*) FROM ended WHERE queue = p_queue AND NOT dead),
        (SELECT count(*) FROM ended WHERE queue = p_queue AND dead),
        (SELECT extract(epoch FROM clock_timestamp() - min(due))::double precision FROM (
            SELECT due FROM oldest
            UNION ALL SELECT min(due) FROM jobs WHERE queue = p_queue AND state = 1) AS first
            WHERE due <= clock_timestamp()),
        coalesce((SELECT paused FROM queues WHERE name = p_queue), false)
$$;

CREATE OR REPLACE FUNCTION hosts_of(p_queue text) RETURNS SETOF json
LANGUAGE sql STABLE SET search_path FROM CURRENT
AS $$
    SELECT json_build_object('name', name, 'daemon', daemon,
        'since', extract(epoch FROM since), 'lease', lease,
        'left', round(extract(epoch FROM expires - clock_timestamp())::numeric, 1),
        'taken', (SELECT count(*) FROM jobs WHERE host = hosts.id AND state = 2))
    FROM hosts WHERE queue = p_queue ORDER BY name, id
$$;

INSERT INTO meta (version) VALUES (1) ON CONFLICT (one) DO UPDATE SET version = excluded.version;

