#!lua flags=allow-oom
-- A write of its own, so that WAIT and WAITAOF behind it cover all that this connection has seen, repeats that wrote nothing among it.
-- KEYS    1 mark
-- ARGV    none
-- ANSWER  1
redis.call('SET', KEYS[1], '', 'EX', 60)
return 1
