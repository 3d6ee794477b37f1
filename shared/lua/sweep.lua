#!lua flags=allow-oom
-- Deletes what has ended and whose retention is over by the leader's clock. What lives longer stays: it is live, or somebody asked to keep it.
-- KEYS    1.. records, or heads and entries of logs
-- ARGV    1 clock_step_s: how much longer than its retention a key lives by the server's own clock
-- ANSWER  how many were deleted
local swept = 0
for _, key in ipairs(KEYS) do
  local left = redis.call('TTL', key)
  if left >= 0 and left <= tonumber(ARGV[1]) then
    if redis.call('TYPE', key).ok == 'hash' then
      local idempotency = redis.call('HGET', key, 'idempotency')
      if idempotency and idempotency ~= '' then redis.call('UNLINK', idempotency) end
    end
    swept = swept + redis.call('UNLINK', key)
  end
end
return swept
