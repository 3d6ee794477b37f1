#!lua flags=allow-oom
-- A worker's report for the scheduler; it keeps the worker's membership and streams alive.
-- KEYS    1 events  2 member  3 members  4 jobs  5 control
-- ARGV    1 Report (bytes)  2 entries kept in events  3 events_ttl_s  4 worker_ttl_s
-- ANSWER  1, or 0 if the worker is no member (any more): it should join
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'm', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', KEYS[4], ARGV[4])
redis.call('EXPIRE', KEYS[5], ARGV[4])
local ttl_ms = redis.call('HGET', KEYS[2], 'ttl_ms')
if not ttl_ms then return 0 end
redis.call('PEXPIRE', KEYS[2], ttl_ms)
redis.call('PEXPIRE', KEYS[3], ttl_ms, 'GT')
return 1
