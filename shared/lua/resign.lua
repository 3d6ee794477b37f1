#!lua flags=allow-oom
-- Gives the leader's lease back, if it is the candidate's.
-- KEYS    1 leader
-- ARGV    1 candidate
-- ANSWER  1 if it was
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
