#!lua flags=allow-oom
-- Takes or renews the leader's lease. Each new lease has a higher epoch, even after a server lost its last writes:
-- the server's clock is a floor for the number, and nothing is decided by it.
-- KEYS    1 leader  2 epoch
-- ARGV    1 candidate  2 lease in milliseconds
-- ANSWER  the candidate's epoch, or 0 if another leads
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  -- Longer than any lease lasts: the server's clock was stepped back, and nobody may be there to renew it.
  if redis.call('PTTL', KEYS[1]) > tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  return 0
end
local epoch = tonumber(redis.call('GET', KEYS[2]) or '0')
if not holder then
  local now = redis.call('TIME')
  epoch = math.max(epoch + 1, now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('SET', KEYS[2], string.format('%d', epoch))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return epoch
