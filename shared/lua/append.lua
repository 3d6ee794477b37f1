#!lua flags=allow-oom
-- Appends tokens and perhaps the end to a log: all of it or nothing. Memory for it was reserved at submission.
-- KEYS    1 head  2 entries
-- ARGV    1 attempt  2 live_ttl_s  3 retention_s  4 digest of this append  5 phase of the end, or ''  6 end (bytes)
--         then for each LogTokens: choice, index, number of tokens, entry (bytes)
-- ANSWER  done | missing | superseded | ended | gap
local head = redis.call('HMGET', KEYS[1], 'fence', 'ended', 'last')
local fence, ended, last = head[1], head[2], head[3]
if not fence then return 'missing' end
if tonumber(ARGV[1]) ~= tonumber(fence) then return 'superseded' end
if last == ARGV[4] then return 'done' end
if ended then return 'ended' end

local coming = {}
for i = 7, #ARGV, 4 do
  local choice = 'next:' .. ARGV[i]
  local expected = coming[choice] or tonumber(redis.call('HGET', KEYS[1], choice) or '0')
  if tonumber(ARGV[i + 1]) ~= expected then return 'gap' end
  coming[choice] = expected + tonumber(ARGV[i + 2])
end

for i = 7, #ARGV, 4 do
  redis.call('XADD', KEYS[2], '*', 'm', ARGV[i + 3])
end
for choice, index in pairs(coming) do
  redis.call('HSET', KEYS[1], choice, string.format('%d', index))
end
redis.call('HSET', KEYS[1], 'last', ARGV[4])
local ttl = ARGV[2]
if ARGV[5] ~= '' then
  redis.call('XADD', KEYS[2], '*', 'm', ARGV[6])
  redis.call('HSET', KEYS[1], 'ended', ARGV[5])
  ttl = ARGV[3]
end
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('EXPIRE', KEYS[2], ttl)
return 'done'
