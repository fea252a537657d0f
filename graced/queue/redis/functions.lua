#!lua name=@LIBRARY@
-- What graced does in Redis 7 or newer: jobs, hosts with their leases, all by the server's clock.
-- One function does it all: the first argument says what, the second is an object in JSON, and so
-- is what is returned. A call is a transaction: nothing else happens meanwhile, and nothing in it
-- may fail half way. Times are milliseconds since the epoch, but for those of a lease: seconds.
--
-- A queue is under one prefix, with the queue's name as hash tag:
--   :meta          hash     version, id (the last), token (the last), session, paused, max_waiting,
--                           staged (accepted, not yet published)
--   :job:ID        hash     a job; state is waiting, taken, staged, done or dead
--   :tries:ID      list     its hand-outs that came to nothing
--   :waiting :taken :done :dead    sorted sets of jobs by id
--   :ready         sorted set      waiting and due, the first to be handed out first
--   :later         sorted set      waiting, by the time at which they are due
--   :ended         sorted set      done, by the time of their end
--   :unique        hash     key to id, of jobs that are open
--   :cancelled     set      in hand, and not to be any more
--   :hosts         sorted set      hosts by the end of their leases; :host:N hash, :hand:N set
--   :daemons       hash     daemon to host
--   :streams       hash     stream to what is known of it; :stream:N sorted set of its jobs by id
--   :schedules     hash     name to where it stands

local P, ME  -- the prefix and the caller of this call
local PRIORITIES = 4398046511104  -- 2^42: more than a time in ms
local CANCELLED = '{"reason":"cancelled","cancelled":true}'
local MOST_TRIES = 100
local MOST_TEXT = 1048576  -- bytes in one answer that are of several jobs, or attempts
local STEP = 1000  -- jobs of a stream that are forgotten at once

local function key(name) return P .. ':' .. name end
local function text(number) return string.format('%d', number) end
local function member(id) return string.format('%016d', id) end
local function job_key(id) return key('job:' .. text(id)) end
local function given(value) if value == cjson.null then return nil end return value end

local function now()
    local time = redis.call('TIME')
    return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function ring(what) redis.call('PUBLISH', key('bell'), ME .. ' ' .. what) end

local function hash(name)
    local flat, found = redis.call('HGETALL', name), {}
    for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
    return found
end

local function load(id)
    local job = hash(job_key(id))
    if job.state == nil then return nil end
    job.id = id
    return job
end

local function set(name, fields)  -- false removes a field
    for field, value in pairs(fields) do
        if value == false then redis.call('HDEL', name, field)
        elseif type(value) == 'number' and value == math.floor(value) then
            redis.call('HSET', name, field, text(value))
        else redis.call('HSET', name, field, tostring(value)) end
    end
end

-- Jobs and the sets that they are in

local function wait(id, priority, due, at)
    redis.call('ZADD', key('waiting'), id, member(id))
    if due <= at then
        redis.call('ZADD', key('ready'), (100 - priority) * PRIORITIES + due, member(id))
    else
        redis.call('ZADD', key('later'), due, member(id))
    end
end

local function take_out(id)
    for _, name in ipairs({'waiting', 'ready', 'later', 'taken', 'done', 'dead', 'ended'}) do
        redis.call('ZREM', key(name), member(id))
    end
end

local function let_go(job)  -- of a hand-out
    redis.call('ZREM', key('taken'), member(job.id))
    redis.call('SREM', key('cancelled'), text(job.id))
    if job.host then redis.call('SREM', key('hand:' .. job.host), text(job.id)) end
end

local function end_it(job, state, at, fields)
    let_go(job)
    if state == 'dead' or job.state ~= 'taken' then take_out(job.id) end
    redis.call('ZADD', key(state), job.id, member(job.id))
    if state == 'done' then redis.call('ZADD', key('ended'), at, member(job.id)) end
    if job.unique and redis.call('HGET', key('unique'), job.unique) == text(job.id) then
        redis.call('HDEL', key('unique'), job.unique)
    end
    fields.state, fields.ended, fields.host, fields.owner = state, at, false, false
    fields.watched = false
    set(job_key(job.id), fields)
    if job.watched or state == 'dead' then ring('ended:' .. text(job.id)) end
end

-- A hand-out has come to nothing: the job waits again, for so many seconds or as long as before,
-- or it is dead.
local function fail(job, failures, after, dead, evidence, host, at)
    if evidence and job.state == 'taken' then
        local try = {token = tonumber(job.token), began = tonumber(job.began), ended = at,
            attempt = math.max(failures, tonumber(job.failures) + 1), host = host,
            owner = job.owner, counts = failures > tonumber(job.failures), evidence = evidence}
        local name = key('tries:' .. text(job.id))
        redis.call('RPUSH', name, cjson.encode(try))
        redis.call('LTRIM', name, -MOST_TRIES, -1)
    end
    local fields = {failures = failures, evidence = evidence}
    if dead then return end_it(job, 'dead', at, fields) end
    let_go(job)
    local due = after and at + math.floor(after * 1000 + 0.5) or tonumber(job.due)
    fields.state, fields.due, fields.host, fields.owner = 'waiting', due, false, false
    set(job_key(job.id), fields)
    wait(job.id, tonumber(job.priority), due, at)
end

local function handout(job, daemon)
    return {id = job.id, token = tonumber(job.token), owner = job.owner, daemon = daemon,
        failures = tonumber(job.failures), limit = tonumber(job.max_attempts),
        submitted = tonumber(job.submitted), due = tonumber(job.due),
        scheduled = tonumber(job.scheduled), payload = job.payload}
end

-- New jobs

local function waiting()
    return redis.call('ZCARD', key('waiting')) + tonumber(redis.call('HGET', key('meta'), 'staged') or 0)
end

local function open_with(unique)  -- the open job that has this key
    return unique and redis.call('HGET', key('unique'), unique)
end

local function refusal(more, unique)
    local most = tonumber(redis.call('HGET', key('meta'), 'max_waiting') or nil)
    local there = most and waiting()
    if most and there + more > most and not open_with(unique) then
        return string.format('the queue is full: %d jobs wait and max_waiting is %d, too few for %d more;' ..
            ' submit fewer, or later', there, most, more)
    end
end

local function make(payload, terms, at, fields)
    local id = redis.call('HINCRBY', key('meta'), 'id', 1)
    redis.call('HSET', job_key(id), 'state', fields.state, 'priority', text(terms.priority), 'due', text(fields.due),
        'submitted', text(at), 'failures', '0', 'token', '0', 'payload', payload)
    set(job_key(id), {max_attempts = given(terms.max_attempts), unique = given(terms.unique),
        schedule = given(terms.schedule), stream = fields.stream,
        scheduled = given(terms.scheduled) and terms.scheduled * 1000})
    return id
end

local function accept(payloads, terms)
    local at, ids = now(), {}
    local schedule, unique = given(terms.schedule), given(terms.unique)
    if schedule then
        local known = redis.call('HGET', key('schedules'), schedule)
        local stands = known and cjson.decode(known) or {rule = '', since = terms.scheduled}
        if given(stands.last) and stands.last >= terms.scheduled then return ids end
        stands.last = terms.scheduled
        redis.call('HSET', key('schedules'), schedule, cjson.encode(stands))
    end
    local open = open_with(unique)
    if open then return {tonumber(open)} end
    local due = at + math.floor(terms.delay * 1000 + 0.5)
    for _, payload in ipairs(payloads) do
        local id = make(payload, terms, at, {state = 'waiting', due = due})
        wait(id, terms.priority, due, at)
        ids[#ids + 1] = id
    end
    if unique then redis.call('HSET', key('unique'), unique, text(ids[1])) end
    if terms.delay < 60 then ring('new') end
    return ids
end

-- Hosts

local function abandon(stream, about)  -- a step of it; return whether there is more
    local popped = redis.call('ZPOPMIN', key('stream:' .. stream), STEP)
    for i = 1, #popped, 2 do redis.call('DEL', job_key(tonumber(popped[i]))) end
    if #popped < 2 * STEP then
        redis.call('HDEL', key('streams'), stream)
        return false
    end
    redis.call('HSET', key('streams'), stream, cjson.encode({opened = about.opened, gone = true}))
    return true
end

local function abandon_streams(host)  -- what it has staged
    for stream, known in pairs(hash(key('streams'))) do
        local about = cjson.decode(known)
        if about.host == host and not about.due then abandon(stream, about) end
    end
end

local function forget(host, daemon)
    abandon_streams(host)
    redis.call('ZREM', key('hosts'), host)
    redis.call('HDEL', key('daemons'), daemon)
    redis.call('DEL', key('host:' .. host), key('hand:' .. host))
end

local function expire(policy, at)
    local gone = {}
    for _, host in ipairs(redis.call('ZRANGEBYSCORE', key('hosts'), '-inf', '(' .. text(at))) do
        local about = hash(key('host:' .. host))
        local in_hand = redis.call('SMEMBERS', key('hand:' .. host))
        local evidence = cjson.encode({host = about.name, reason = string.format(
            'host %s was not heard of for %g s', about.name, tonumber(about.lease))})
        for _, id in ipairs(in_hand) do
            local job = load(tonumber(id))
            local failures = tonumber(job.failures)
            if redis.call('SISMEMBER', key('cancelled'), id) == 1 then
                fail(job, failures, 0, true, CANCELLED, nil, at)
            else
                local after = math.min(policy[4], policy[2] * policy[3] ^ math.min(failures, 64))
                local most = tonumber(job.max_attempts) or policy[1]
                fail(job, failures + 1, after, failures + 1 >= most, evidence, about.name, at)
            end
        end
        forget(host, about.daemon)
        gone[#gone + 1] = {host = about.name, daemon = about.daemon, jobs = #in_hand, lease = tonumber(about.lease)}
    end
    if #gone > 0 then ring('new') end
    return gone
end

local function in_hand_at(place)  -- each with its host
    local found = {}
    for _, host in ipairs(redis.call('ZRANGE', key('hosts'), 0, -1)) do
        local about = hash(key('host:' .. host))
        if about.place == place then
            for _, id in ipairs(redis.call('SMEMBERS', key('hand:' .. host))) do
                found[#found + 1] = {load(tonumber(id)), about.daemon, host}
            end
        end
    end
    return found
end

-- What can be asked

local calls = {}

function calls.check()
    return {version = tonumber(redis.call('HGET', key('meta'), 'version') or nil)}
end

function calls.init(asked)
    redis.call('HSET', key('meta'), 'version', text(asked.version))
    return {}
end

function calls.join(asked)
    set(key('meta'), {version = asked.version, max_waiting = given(asked.max_waiting) or false})
    local host = redis.call('HGET', key('daemons'), asked.daemon)
    if not host then
        host = text(redis.call('HINCRBY', key('meta'), 'host', 1))
        redis.call('HSET', key('daemons'), asked.daemon, host)
        set(key('host:' .. host), {daemon = asked.daemon, place = asked.place, since = now()})
    end
    local session = redis.call('HINCRBY', key('meta'), 'session', 1)
    redis.call('HSET', key('host:' .. host), 'name', asked.name, 'lease', tostring(asked.lease), 'session', text(session))
    redis.call('ZADD', key('hosts'), now() + asked.lease * 1000, host)
    local held = {}
    for _, found in ipairs(in_hand_at(asked.place)) do held[#held + 1] = handout(found[1], found[2]) end
    return {host = host, session = session, held = held}
end

function calls.leave(asked)
    if redis.call('SCARD', key('hand:' .. asked.host)) == 0 then
        local daemon = redis.call('HGET', key('host:' .. asked.host), 'daemon')
        if daemon then forget(asked.host, daemon) end
    end
    return {}
end

local function settle(said, host, name, at)  -- whether it was that of the present hand-out
    local job = load(said.id)
    if not job or job.state ~= 'taken' or tonumber(job.token) ~= said.token then return false end
    if said.kind == 0 then
        end_it(job, 'done', at, {result = given(said.text)})
    elseif redis.call('SISMEMBER', key('cancelled'), text(said.id)) == 1 then
        fail(job, tonumber(job.failures), nil, true, CANCELLED, name, at)
    else
        fail(job, said.failures, given(said.after), said.kind == 2, given(said.text), name, at)
    end
    return true
end

local function hand_out(host, idle, at)
    local jobs, popped = {}, redis.call('ZPOPMIN', key('ready'), #idle)
    for i = 1, #popped, 2 do
        local id = tonumber(popped[i])
        redis.call('ZREM', key('waiting'), member(id))
        redis.call('ZADD', key('taken'), id, member(id))
        redis.call('SADD', key('hand:' .. host), text(id))
        local owner = idle[(i + 1) / 2]
        redis.call('HINCRBY', job_key(id), 'token', 1)
        redis.call('HSET', job_key(id), 'state', 'taken', 'host', host, 'owner', owner, 'began', text(at))
        jobs[#jobs + 1] = handout(load(id), nil)
    end
    return jobs
end

local function promote(at)
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', key('later'), '-inf', text(at), 'LIMIT', 0, 1000)) do
        local id = tonumber(name)
        local priority, due = unpack(redis.call('HMGET', job_key(id), 'priority', 'due'))
        redis.call('ZREM', key('later'), name)
        wait(id, tonumber(priority), tonumber(due), at)
    end
end

function calls.turn(asked)
    local host, name = asked.host, nil
    local about = hash(key('host:' .. host))
    if about.session ~= text(asked.session) then return {lost = true} end
    name = about.name
    local at = now()
    redis.call('ZADD', key('hosts'), at + asked.lease * 1000, host)
    redis.call('HSET', key('host:' .. host), 'lease', tostring(asked.lease))
    local answer = {held = {}, late = {}, accepted = {}, cancelled = {}, jobs = {}, more = false}
    if #asked.adopted > 0 then
        local adopted = {}
        for _, owner in ipairs(asked.adopted) do adopted[owner] = true end
        for _, found in ipairs(in_hand_at(about.place)) do
            local job, daemon, before = found[1], found[2], found[3]
            if adopted[job.owner] then
                redis.call('SMOVE', key('hand:' .. before), key('hand:' .. host), text(job.id))
                redis.call('HSET', job_key(job.id), 'host', host)
                answer.held[#answer.held + 1] = handout(job, daemon)
            end
        end
    end
    for _, said in ipairs(asked.settles) do
        if not settle(said, host, name, at) then
            answer.late[#answer.late + 1] = {said.id, said.token}
        end
    end
    for n, submission in ipairs(asked.submissions) do
        answer.accepted[n] = refusal(#submission.payloads, given(submission.terms.unique))
            or accept(submission.payloads, submission.terms)
    end
    answer.expired = asked.looks and expire(asked.policy, at) or {}
    answer.paused = redis.call('HGET', key('meta'), 'paused') == '1'
    if #asked.idle > 0 then
        promote(at)
        if not answer.paused then
            answer.jobs = hand_out(host, asked.idle, at)
            answer.more = #answer.jobs == #asked.idle
        end
        local first = redis.call('ZRANGE', key('later'), 0, 0, 'WITHSCORES')
        if first[2] then answer.due_in = math.max(tonumber(first[2]) - at, 0) end
    end
    for _, id in ipairs(redis.call('SMEMBERS', key('cancelled'))) do
        local of, token = unpack(redis.call('HMGET', key('job:' .. id), 'host', 'token'))
        if of == host then answer.cancelled[#answer.cancelled + 1] = {tonumber(id), tonumber(token)} end
    end
    return answer
end

function calls.submit(asked)
    local why = refusal(#asked.payloads, given(asked.terms.unique))
    if why then return {refused = why} end
    return {ids = accept(asked.payloads, asked.terms)}
end

function calls.stream_open(asked)
    local stream = redis.call('HINCRBY', key('meta'), 'stream', 1)
    redis.call('HSET', key('streams'), text(stream), cjson.encode({host = given(asked.host), opened = now()}))
    return {stream = stream}
end

local function open_stream(stream)  -- what is known of it, unless it has come to its end, or is gone
    local known = redis.call('HGET', key('streams'), stream)
    local about = known and cjson.decode(known)
    if about and not about.due and not about.gone then return about end
end

function calls.stream_stage(asked)
    local stream, at = text(asked.stream), now()
    if not open_stream(stream) then return {refused = 'the stream is gone; submit it again'} end
    local why = refusal(#asked.payloads + redis.call('ZCARD', key('stream:' .. stream)))
    if why then return {refused = why} end
    local ids = {}
    for _, payload in ipairs(asked.payloads) do
        local id = make(payload, asked.terms, at, {state = 'staged', due = at, stream = stream})
        redis.call('ZADD', key('stream:' .. stream), id, member(id))
        ids[#ids + 1] = id
    end
    return {ids = ids}
end

function calls.stream_commit(asked)
    local stream, at = text(asked.stream), now()
    local about = open_stream(stream)
    if not about then return {refused = 'the stream is gone; submit it again'} end
    local count = redis.call('ZCARD', key('stream:' .. stream))
    redis.call('HSET', key('streams'), stream, cjson.encode({opened = about.opened,
        due = at + math.floor(asked.delay * 1000 + 0.5)}))
    redis.call('HINCRBY', key('meta'), 'staged', count)
    ring('staged')
    return {count = count}
end

function calls.stream_abort(asked)
    local stream = text(asked.stream)
    local about = open_stream(stream)
    if about then abandon(stream, about) end
    return {}
end

local function publish_one(id, due, at)
    redis.call('HSET', job_key(id), 'state', 'waiting', 'due', text(due))
    redis.call('HDEL', job_key(id), 'stream')
    wait(id, tonumber(redis.call('HGET', job_key(id), 'priority')), due, at)
end

local function publish(stream, due, most, at)  -- a step of a stream that has come to its end
    local popped = redis.call('ZPOPMIN', key('stream:' .. stream), most)
    for i = 1, #popped, 2 do publish_one(tonumber(popped[i]), due, at) end
    redis.call('HINCRBY', key('meta'), 'staged', 0 - #popped / 2)
    if #popped < 2 * most then redis.call('HDEL', key('streams'), stream) end
    if due < at + 60000 then ring('new') end
end

function calls.maintain(asked)
    local at, gone = now(), {}
    for stream, known in pairs(hash(key('streams'))) do
        local about = cjson.decode(known)
        if about.due then
            publish(stream, about.due, asked.most, at)
            return {more = true}
        elseif about.gone or not given(about.host) and about.opened < at - 86400000 then
            gone[stream] = about
        end
    end
    for stream, about in pairs(gone) do
        if abandon(stream, about) then return {more = true} end
    end
    local last = string.format('%.0f', at - asked.keep * 1000)
    local old = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', '(' .. last, 'LIMIT', 0, asked.most)
    for _, name in ipairs(old) do
        local id = text(tonumber(name))
        redis.call('DEL', key('job:' .. id), key('tries:' .. id))
        redis.call('ZREM', key('done'), name)
        redis.call('ZREM', key('ended'), name)
    end
    return {more = #old == asked.most}
end

function calls.adopt(asked)
    local known = redis.call('HGET', key('schedules'), asked.name)
    local stands = known and cjson.decode(known)
    if not stands then
        stands = {rule = asked.rule, since = asked.now}
    elseif stands.rule ~= asked.rule then
        stands = {rule = asked.rule, since = asked.now}
    elseif given(asked.since) then
        stands.since = asked.since
        if asked.forget then stands.last = nil end
    end
    redis.call('HSET', key('schedules'), asked.name, cjson.encode(stands))
    return stands
end

-- What is done to single jobs: the numbers of those that it is refused for, and why

local function accepted(job)  -- when a staged job is due whose stream is accepted; else nil
    local known = job.stream and redis.call('HGET', key('streams'), job.stream)
    local due = known and cjson.decode(known).due
    return due and given(due)
end

local function each(asked, act)
    local refused = {}
    for _, id in ipairs(asked.ids) do
        local job = load(id)
        if job and job.state == 'staged' then
            local due = accepted(job)
            if due then  -- ahead of the others
                redis.call('ZREM', key('stream:' .. job.stream), member(id))
                redis.call('HINCRBY', key('meta'), 'staged', -1)
                publish_one(id, due, now())
                job = load(id)
            else
                job = nil
            end
        end
        local why = 'no such job'
        if job then why = act(job) end
        if why then refused[#refused + 1] = {id, why} end
    end
    return {refused = refused}
end

function calls.retry(asked)
    local at = now()
    local answer = each(asked, function(job)
        if job.state == 'taken' then return 'is being worked on' end
        if job.state == 'done' then return 'is done' end
        local due = math.min(tonumber(job.due), at)
        local fields = {state = 'waiting', due = due}
        if job.state == 'dead' then
            if job.unique then
                local open = open_with(job.unique)
                if open then return string.format('job %s with the same unique key is open', open) end
                redis.call('HSET', key('unique'), job.unique, text(job.id))
            end
            fields.due, fields.failures, fields.ended, fields.evidence = at, 0, false, false
        end
        take_out(job.id)
        set(job_key(job.id), fields)
        wait(job.id, tonumber(job.priority), fields.due, at)
    end)
    ring('new')
    return answer
end

function calls.drop(asked)
    return each(asked, function(job)
        if job.state == 'taken' then return 'is being worked on' end
        take_out(job.id)
        if job.unique and redis.call('HGET', key('unique'), job.unique) == text(job.id) then
            redis.call('HDEL', key('unique'), job.unique)
        end
        redis.call('DEL', job_key(job.id), key('tries:' .. text(job.id)))
        ring('ended:' .. text(job.id))
    end)
end

function calls.cancel(asked)
    local at, told = now(), false
    local answer = each(asked, function(job)
        if job.state == 'done' then return 'is done' end
        if job.state == 'taken' then
            redis.call('SADD', key('cancelled'), text(job.id))
            told = true
        elseif job.state == 'waiting' then
            fail(job, tonumber(job.failures), 0, true, CANCELLED, nil, at)
            return ''  -- it has ended now
        end
    end)
    if told then ring('cancel') end
    return answer
end

function calls.pause(asked)
    redis.call('HSET', key('meta'), 'paused', asked.paused and '1' or '0')
    ring('paused')
    return {}
end

-- What is there

local function listing(id)
    local job = load(id)
    if job and job.state == 'staged' then job.state, job.due = 'waiting', accepted(job) end
    if not job or not job.due then return nil end
    local host = job.host and redis.call('HGET', key('host:' .. job.host), 'name') or nil
    local counted = (job.state == 'taken' or job.state == 'done') and 1 or 0
    return {id = id, state = job.state, attempts = tonumber(job.failures) + counted,
        max_attempts = tonumber(job.max_attempts), priority = tonumber(job.priority),
        unique = job.unique, token = tonumber(job.token), submitted = tonumber(job.submitted),
        due = tonumber(job.due), began = tonumber(job.began), ended = tonumber(job.ended),
        cancelling = redis.call('SISMEMBER', key('cancelled'), text(id)) == 1, owner = job.owner,
        host = host, payload = job.payload, result = job.result, evidence = job.evidence,
        dead = job.state == 'dead', schedule = job.schedule, scheduled = tonumber(job.scheduled)}
end

function calls.look(asked)
    if asked.watch and redis.call('EXISTS', job_key(asked.id)) == 1 then
        local state = redis.call('HGET', job_key(asked.id), 'state')
        if state ~= 'done' and state ~= 'dead' then redis.call('HSET', job_key(asked.id), 'watched', '1') end
    end
    return {job = listing(asked.id)}
end

function calls.attempts(asked)
    local found, size = {}, 0
    local tries = redis.call('LRANGE', key('tries:' .. text(asked.id)), 0, -1)
    for n = #tries, 1, -1 do  -- of too many the last ones
        size = size + #tries[n]
        if size > MOST_TEXT and #found > 0 then break end
        table.insert(found, 1, cjson.decode(tries[n]))
    end
    return {tries = found}
end

function calls.page(asked)
    local names, ids, jobs = {'waiting', 'taken', 'done', 'dead'}, {}, {}
    if given(asked.state) then names = {asked.state} end
    if names[1] == 'waiting' then
        for stream, known in pairs(hash(key('streams'))) do
            if cjson.decode(known).due then names[#names + 1] = 'stream:' .. stream end
        end
    end
    for _, name in ipairs(names) do
        local after = '(' .. text(asked.after)
        for _, id in ipairs(redis.call('ZRANGEBYSCORE', key(name), after, '+inf', 'LIMIT', 0, asked.limit)) do
            ids[#ids + 1] = tonumber(id)
        end
    end
    table.sort(ids)
    local size = 0
    for n = 1, math.min(#ids, asked.limit) do
        local job = listing(ids[n])
        size = size + #job.payload + #(job.result or '') + #(job.evidence or '')
        if size > MOST_TEXT and n > 1 then break end
        jobs[n] = job
    end
    return {jobs = jobs}
end

local function oldest(at)  -- how long the oldest job that is due has waited, in ms
    local first, lowest = nil, '-inf'
    while true do
        local found = redis.call('ZRANGEBYSCORE', key('ready'), lowest, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
        if not found[2] then break end
        local score = tonumber(found[2])
        local level = math.floor(score / PRIORITIES)
        local due = score - level * PRIORITIES
        first = math.min(first or due, due)
        lowest = string.format('%.0f', (level + 1) * PRIORITIES)
    end
    local later = redis.call('ZRANGE', key('later'), 0, 0, 'WITHSCORES')
    local due = tonumber(later[2])
    if due and due <= at then first = math.min(first or due, due) end
    return first and math.max(at - first, 0)
end

function calls.counts()
    return {waiting = waiting(), taken = redis.call('ZCARD', key('taken')),
        done = redis.call('ZCARD', key('done')), dead = redis.call('ZCARD', key('dead')),
        oldest = oldest(now()), paused = redis.call('HGET', key('meta'), 'paused') == '1'}
end

function calls.hosts()
    local found, at = {}, now()
    local flat = redis.call('ZRANGE', key('hosts'), 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
        local about = hash(key('host:' .. flat[i]))
        found[#found + 1] = {name = about.name, daemon = about.daemon, since = tonumber(about.since),
            lease = tonumber(about.lease), left = tonumber(flat[i + 1]) - at,
            taken = redis.call('SCARD', key('hand:' .. flat[i]))}
    end
    return {hosts = found}
end

local function call(keys, args)
    P, ME = keys[1], args[3]
    return cjson.encode(calls[args[1]](cjson.decode(args[2])))
end

redis.register_function('@FUNCTION@', call)
-- For all but new jobs, also on a server whose memory is full: what is settled makes room.
redis.register_function{function_name = '@FUNCTION@_full', callback = call, flags = {'allow-oom'}}
