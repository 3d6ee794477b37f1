#!lua flags=allow-oom
-- The second half of a move: MOVING -> QUEUED under the new attempt.
-- KEYS    1 epoch  2 request  3 waiting
-- ARGV    1 epoch  2 request id  3 new attempt  4 known tokens  5 '1' if the owner crashed, else '0'  6 live_ttl_s
-- ANSWER  done | superseded | missing | ended
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or '0') then return 'superseded' end
local record = redis.call('HMGET', KEYS[2], 'phase', 'attempt')
local phase, attempt = record[1], tonumber(record[2])
if not phase then return 'missing' end
if phase ~= 'queued' and phase ~= 'running' and phase ~= 'moving' then return 'ended' end
if attempt == tonumber(ARGV[3]) then return 'done' end
if phase ~= 'moving' or attempt ~= tonumber(ARGV[3]) - 1 then return 'superseded' end
redis.call('HSET', KEYS[2], 'phase', 'queued', 'attempt', ARGV[3], 'tokens', ARGV[4])
redis.call('HINCRBY', KEYS[2], 'crashes', ARGV[5])
redis.call('EXPIRE', KEYS[2], ARGV[6])
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('EXPIRE', KEYS[3], ARGV[6])
return 'done'
