#!lua flags=allow-oom
-- Places a request: QUEUED -> RUNNING in the record, and the job in the worker's stream.
-- KEYS    1 epoch  2 request  3 waiting  4 jobs
-- ARGV    1 epoch  2 request id  3 attempt  4 seq  5 worker  6 known tokens  7 Assign (bytes)
--         8 live_ttl_s  9 entries kept in jobs  10 worker_ttl_s
-- ANSWER  done | superseded | missing | ended | cancelled
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or '0') then return 'superseded' end
local record = redis.call('HMGET', KEYS[2], 'phase', 'attempt', 'seq', 'cancel')
local phase, attempt, seq, cancel = unpack(record)
if not phase then return 'missing' end
if phase == 'running' and seq == ARGV[4] then return 'done' end
if phase ~= 'queued' and phase ~= 'running' and phase ~= 'moving' then return 'ended' end
if tonumber(attempt) ~= tonumber(ARGV[3]) then return 'superseded' end
if cancel then return 'cancelled' end
if phase ~= 'queued' then return 'superseded' end

redis.call('HSET', KEYS[2], 'phase', 'running', 'seq', ARGV[4], 'worker', ARGV[5], 'tokens', ARGV[6])
redis.call('EXPIRE', KEYS[2], ARGV[8])
redis.call('SREM', KEYS[3], ARGV[2])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[9], '*', 'm', ARGV[7], 'seq', ARGV[4])
redis.call('EXPIRE', KEYS[4], ARGV[10])
return 'done'
