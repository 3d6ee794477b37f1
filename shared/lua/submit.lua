#!lua
-- Accepts a request into the pool, or says why not. The only script that may be refused for the server's memory.
-- KEYS    1 request  2 submit  3 waiting  4 reserved  5 load  6 idempotency (if the client named a key)
-- ARGV    1 request id  2 submission (bytes)  3 gateway  4 prompt tokens  5 bytes to reserve
--         6 max_waiting  7 max_predicted_wait_s  8 max_reserved_bytes  9 live_ttl_s
--         10 prefix of request keys  11 digest of the body  12 version of the submission
-- ANSWER  {accepted | repeated | conflict | busy | no_memory | other_version, request id, predicted wait in seconds}
if KEYS[6] then
  local known = redis.call('HMGET', KEYS[6], 'digest', 'id')
  if known[2] then
    return {known[1] == ARGV[11] and 'repeated' or 'conflict', known[2], '0'}
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then return {'accepted', ARGV[1], '0'} end

-- A request that nobody touched until its record expired still holds its place and its bytes: take them back, oldest first.
for _, entry in ipairs(redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 2)) do
  local id, bytes = entry[2][2], entry[2][4]
  if redis.call('EXISTS', ARGV[10] .. id) == 0 then
    redis.call('XDEL', KEYS[2], entry[1])
    redis.call('SREM', KEYS[3], id)
    if tonumber(redis.call('GET', KEYS[4]) or '0') > tonumber(bytes) then
      redis.call('DECRBY', KEYS[4], bytes)
    else
      redis.call('DEL', KEYS[4])
    end
  end
end

local load = redis.call('HMGET', KEYS[5], 'max_waiting', 'predicted_wait_s', 'version')
-- The leader could not read it, and whoever sent it would wait for ever.
if load[3] and math.abs(tonumber(load[3]) - tonumber(ARGV[12])) > 1 then return {'other_version', ARGV[1], '0'} end
local bound, wait = tonumber(load[1] or '0'), load[2] or '0'
if bound <= 0 then bound = tonumber(ARGV[6]) end
if redis.call('SCARD', KEYS[3]) >= bound or tonumber(wait) > tonumber(ARGV[7]) then return {'busy', ARGV[1], wait} end
local reserved = tonumber(redis.call('GET', KEYS[4]) or '0')
if reserved + tonumber(ARGV[5]) > tonumber(ARGV[8]) then return {'no_memory', ARGV[1], wait} end

local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[1], 'bytes', ARGV[5], 'm', ARGV[2])
redis.call('HSET', KEYS[1], 'phase', 'queued', 'attempt', 1, 'crashes', 0, 'tokens', ARGV[4],
  'submission', ARGV[2], 'listener', ARGV[3], 'entry', entry, 'bytes', ARGV[5], 'idempotency', KEYS[6] or '')
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('INCRBY', KEYS[4], ARGV[5])
for i = 1, 4 do
  redis.call('EXPIRE', KEYS[i], ARGV[9])
end
if KEYS[6] then
  redis.call('HSET', KEYS[6], 'digest', ARGV[11], 'id', ARGV[1])
  redis.call('EXPIRE', KEYS[6], ARGV[9])
end
return {'accepted', ARGV[1], wait}
