#!lua flags=allow-oom
-- Keeps every attempt below `attempt` from writing to a log.
-- KEYS    1 head
-- ARGV    1 attempt
-- ANSWER  {done | missing | superseded, next index of choice 0, phase of the end or ''}
local head = redis.call('HMGET', KEYS[1], 'fence', 'next:0', 'ended')
if not head[1] then return {'missing', 0, ''} end
local status = 'superseded'
if tonumber(ARGV[1]) >= tonumber(head[1]) then
  redis.call('HSET', KEYS[1], 'fence', ARGV[1])
  status = 'done'
end
return {status, tonumber(head[2] or '0'), head[3] or ''}
