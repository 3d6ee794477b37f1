#!lua flags=allow-oom
-- Takes from a caller's allowances, both or nothing: see shared/rates.py. The server's clock, so that all gateways agree.
-- KEYS    1 rate
-- ARGV    1 requests a minute (0: no limit)  2 tokens a minute  3 requests taken  4 tokens taken (negative: given back)
-- ANSWER  {1 | 0, requests left, tokens left, requests_full_ms, tokens_full_ms, ms until it would be granted (-1: never)}
local minute = 60000
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local held = redis.call('HMGET', KEYS[1], 'requests', 'tokens', 'at_ms')
local since = math.max(0, now - tonumber(held[3] or now))
local used, after, wait, granted = {}, {}, 0, 1
for i = 1, 2 do
  local limit, taken = tonumber(ARGV[i]), tonumber(ARGV[i + 2])
  used[i] = math.max(0, tonumber(held[i] or '0') - since * limit / minute)
  after[i] = limit > 0 and math.max(0, used[i] + taken) or 0
  if limit > 0 and taken > 0 and after[i] > limit then
    granted = 0
    if taken > limit then wait = -1 end
    if wait >= 0 then wait = math.max(wait, math.ceil((after[i] - limit) * minute / limit)) end
  end
end
local kept = granted == 1 and after or used
redis.call('HSET', KEYS[1], 'requests', tostring(kept[1]), 'tokens', tostring(kept[2]), 'at_ms', tostring(now))
redis.call('PEXPIRE', KEYS[1], 2 * minute)
local answer = {granted}
for i = 1, 2 do
  answer[1 + i] = math.max(0, math.floor(tonumber(ARGV[i]) - kept[i]))
  answer[3 + i] = tonumber(ARGV[i]) > 0 and math.ceil(kept[i] * minute / tonumber(ARGV[i])) or 0
end
answer[6] = wait
return answer
