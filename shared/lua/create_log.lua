#!lua
-- Writes the head of a request's log, once: a repeat leaves fence and entries as they are.
-- KEYS    1 head
-- ARGV    1 head (bytes)  2 fence  3 live_ttl_s
-- ANSWER  1 if written, 0 if it was there
local new = redis.call('EXISTS', KEYS[1]) == 0
if new then
  redis.call('HSET', KEYS[1], 'head', ARGV[1], 'fence', ARGV[2])
end
if redis.call('HEXISTS', KEYS[1], 'ended') == 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
return new and 1 or 0
