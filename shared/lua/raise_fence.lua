#!lua flags=allow-oom
-- Keeps every attempt below `attempt` from writing to a log.
-- KEYS    1 head  2 entries
-- ARGV    1 attempt
-- ANSWER  {done | missing | superseded, next index of the choice that is furthest, phase of the end or '', the end (bytes) or ''}
local head = redis.call('HMGET', KEYS[1], 'fence', 'ended')
if not head[1] then return {'missing', 0, '', ''} end
local furthest = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 5) == 'next:' then
    furthest = math.max(furthest, tonumber(redis.call('HGET', KEYS[1], field)))
  end
end
local status = 'superseded'
if tonumber(ARGV[1]) >= tonumber(head[1]) then
  redis.call('HSET', KEYS[1], 'fence', ARGV[1])
  status = 'done'
end
local ending = ''
if head[2] then
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
  ending = last[1] and last[1][2][2] or ''
end
return {status, furthest, head[2] or '', ending}
