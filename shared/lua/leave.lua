#!lua flags=allow-oom
-- A worker's incarnation is gone, and its streams with it.
-- KEYS    1 member  2 members  3 jobs  4 control
-- ARGV    1 worker
-- ANSWER  1
redis.call('DEL', KEYS[1], KEYS[3], KEYS[4])
redis.call('SREM', KEYS[2], ARGV[1])
return 1
