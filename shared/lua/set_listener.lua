#!lua flags=allow-oom
-- A gateway follows a request, or no longer does: the record says so, and the scheduler is told.
-- KEYS    1 request  2 events
-- ARGV    1 gateway  2 '1' if it listens, else '0'  3 ListenerChange (bytes)  4 entries kept in events  5 events_ttl_s
-- ANSWER  1 if the request is live, else 0
local record = redis.call('HMGET', KEYS[1], 'phase', 'listener')
local phase, listener = record[1], record[2]
if phase ~= 'queued' and phase ~= 'running' and phase ~= 'moving' then return 0 end
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], 'listener', ARGV[1])
elseif listener == ARGV[1] then
  redis.call('HSET', KEYS[1], 'listener', '')
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'm', ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 1
