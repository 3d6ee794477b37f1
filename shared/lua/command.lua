#!lua flags=allow-oom
-- The leader tells a worker something.
-- KEYS    1 epoch  2 control
-- ARGV    1 epoch  2 message (bytes)  3 entries kept in control  4 worker_ttl_s
-- ANSWER  done | superseded
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or '0') then return 'superseded' end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'm', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[4])
return 'done'
