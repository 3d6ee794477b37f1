#!lua flags=allow-oom
-- A request is taken from its place: QUEUED or RUNNING -> MOVING, without an owner.
-- KEYS    1 epoch  2 request  3 waiting
-- ARGV    1 epoch  2 request id  3 attempt  4 live_ttl_s
-- ANSWER  done | superseded | missing | ended
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or '0') then return 'superseded' end
local record = redis.call('HMGET', KEYS[2], 'phase', 'attempt')
local phase, attempt = record[1], record[2]
if not phase then return 'missing' end
if phase ~= 'queued' and phase ~= 'running' and phase ~= 'moving' then return 'ended' end
if tonumber(attempt) ~= tonumber(ARGV[3]) then return 'superseded' end
redis.call('HSET', KEYS[2], 'phase', 'moving')
redis.call('HDEL', KEYS[2], 'worker')
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('SREM', KEYS[3], ARGV[2])
return 'done'
