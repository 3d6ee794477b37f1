#!lua flags=allow-oom
-- Adds a message to a bounded stream. Not repeatable: who lost the answer may tell it twice.
-- KEYS    1 stream
-- ARGV    1 message (bytes)  2 entries kept  3 time to live in seconds
-- ANSWER  1
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'm', ARGV[1])
return redis.call('EXPIRE', KEYS[1], ARGV[3])
