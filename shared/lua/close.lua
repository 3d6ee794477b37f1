#!lua flags=allow-oom
-- Ends a record, takes its submission out of the stream and gives its memory back. Allowed when memory is short: it frees some.
-- KEYS    1 request  2 submit  3 waiting  4 reserved  5 dead letters
-- ARGV    1 request id  2 attempt  3 phase  4 ended_ttl_s  5 most dead letters (0: this is none)  6 dead_letter_ttl_s
-- ANSWER  done | missing | ended | superseded
local record = redis.call('HMGET', KEYS[1], 'phase', 'attempt', 'entry', 'bytes', 'idempotency', 'submission')
local phase, attempt, entry, bytes, idempotency, submission = unpack(record)
if not phase then return 'missing' end
if phase ~= 'queued' and phase ~= 'running' and phase ~= 'moving' then
  return phase == ARGV[3] and 'done' or 'ended'
end
if tonumber(ARGV[2]) < tonumber(attempt) then return 'superseded' end

redis.call('HSET', KEYS[1], 'phase', ARGV[3], 'attempt', ARGV[2])
redis.call('HDEL', KEYS[1], 'worker')
redis.call('EXPIRE', KEYS[1], ARGV[4])
if idempotency ~= '' then redis.call('EXPIRE', idempotency, ARGV[4]) end
redis.call('XDEL', KEYS[2], entry)
redis.call('SREM', KEYS[3], ARGV[1])
if tonumber(redis.call('GET', KEYS[4]) or '0') <= tonumber(bytes) then
  redis.call('DEL', KEYS[4])
else
  redis.call('DECRBY', KEYS[4], bytes)
end
if ARGV[5] ~= '0' then
  redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[5], '*', 'm', submission)
  redis.call('EXPIRE', KEYS[5], ARGV[6])
end
return 'done'
