#!lua flags=allow-oom
-- A worker's incarnation becomes a member, or says again that it is one.
-- KEYS    1 member  2 members  3 jobs  4 control
-- ARGV    1 worker  2 WorkerInfo (bytes)  3 membership in milliseconds  4 worker_ttl_s
-- ANSWER  1
redis.call('HSET', KEYS[1], 'info', ARGV[2], 'ttl_ms', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
redis.call('EXPIRE', KEYS[3], ARGV[4])
redis.call('EXPIRE', KEYS[4], ARGV[4])
return 1
