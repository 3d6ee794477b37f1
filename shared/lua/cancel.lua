#!lua flags=allow-oom
-- Asks for the end of a request: marks the record, tells the scheduler, and the owner if there is one.
-- KEYS    1 request  2 events
-- ARGV    1 prefix of control streams  2 CancelAsked (bytes)  3 Cancel (bytes)
--         4 entries kept in events  5 events_ttl_s  6 entries kept in control  7 worker_ttl_s
-- ANSWER  the phase, or nil if there is no such request
local record = redis.call('HMGET', KEYS[1], 'phase', 'worker')
local phase, worker = record[1], record[2]
if phase == 'queued' or phase == 'running' or phase == 'moving' then
  redis.call('HSET', KEYS[1], 'cancel', '1')
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'm', ARGV[2])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
  if phase == 'running' and worker then
    redis.call('XADD', ARGV[1] .. worker, 'MAXLEN', '~', ARGV[6], '*', 'm', ARGV[3])
    redis.call('EXPIRE', ARGV[1] .. worker, ARGV[7])
  end
end
return phase
