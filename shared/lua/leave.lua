#!lua flags=allow-oom
-- A worker's incarnation is gone. Its streams are emptied and left to expire: deleted ones would forget their last id, and after a
-- backward step of the server's clock a worker that lives after all would read past everything new.
-- KEYS    1 member  2 members  3 jobs  4 control
-- ARGV    1 worker
-- ANSWER  1
redis.call('DEL', KEYS[1])
redis.call('XTRIM', KEYS[3], 'MAXLEN', 0)
redis.call('XTRIM', KEYS[4], 'MAXLEN', 0)
redis.call('SREM', KEYS[2], ARGV[1])
return 1
