#!lua
-- Accepts a request into the pool, or says why not. The only script that may be refused for the server's memory.
-- The rules of the line, and of the places in it that are promised to those who were refused: shared/line.py.
-- KEYS    1 request  2 submit  3 waiting  4 reserved  5 load  6 promised  7 idempotency (if the client named a key)
-- ARGV    1 request id  2 submission (bytes)  3 gateway  4 prompt tokens  5 bytes to reserve
--         6 max_waiting  7 max_predicted_wait_s  8 max_reserved_bytes  9 live_ttl_s
--         10 prefix of request keys  11 digest of the body  12 name of a promise (none: nothing is promised)
--         13 max_retry_after_s  14 promise_grace_s  15 early_s  16 most promises  17 takes between two promises
--         18 takes within which a place that falls due is kept already  19 version of the submission
-- ANSWER  {accepted | repeated | conflict | busy | no_memory | other_version, request id, seconds until another try, the bound that refused}
if KEYS[7] then
  local known = redis.call('HMGET', KEYS[7], 'digest', 'id')
  if known[2] then
    return {known[1] == ARGV[11] and 'repeated' or 'conflict', known[2], '0', ''}
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then return {'accepted', ARGV[1], '0', ''} end

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

local load = redis.call('HMGET', KEYS[5], 'max_waiting', 'predicted_wait_s', 'waiting', 'takes_per_s', 'kv_takes_per_s', 'version')
-- The leader could not read it, and whoever sent it would wait for ever.
if load[6] and math.abs(tonumber(load[6]) - tonumber(ARGV[19])) > 1 then return {'other_version', ARGV[1], '0', ''} end
for i = 1, 5 do load[i] = tonumber(load[i] or '0') end
local wait, rate, waiting = load[2], load[4], redis.call('SCARD', KEYS[3])

-- Free places, and the bound that leaves the fewest.
local room, bound = (load[1] > 0 and load[1] or tonumber(ARGV[6])) - waiting, 'waiting'
local function at_most(places, name)
  if rate > 0 then places = math.max(1 - waiting, places) end  -- an empty line has a place, however slow it is
  if places < room then room, bound = places, name end
end
if rate > 0 then
  wait = math.max(0, wait + (waiting - load[3]) / rate)
  at_most(math.floor((tonumber(ARGV[7]) - wait) * rate), 'predicted_wait')
  at_most(math.floor(tonumber(ARGV[7]) * load[5]) - waiting, 'kv_memory')
elseif wait > tonumber(ARGV[7]) then
  at_most(0, 'predicted_wait')
end

-- Places that are due and not claimed yet; the others are behind them. Promises lapse, and none is further off than any can be.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local name, furthest, early = ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[15])
local function seconds(at) return string.format('%.6f', at) end
redis.call('ZREMRANGEBYSCORE', KEYS[6], '-inf', seconds(now - tonumber(ARGV[14])))
redis.call('ZREMRANGEBYSCORE', KEYS[6], '(' .. seconds(now + furthest), '+inf')
local mine = tonumber(redis.call('ZSCORE', KEYS[6], name) or '-1')
local promised = mine >= 0
local function of_others(till)
  return redis.call('ZCOUNT', KEYS[6], '-inf', seconds(till)) - (promised and mine <= till and 1 or 0)
end
local due, soon = of_others(now), of_others(rate > 0 and now + tonumber(ARGV[18]) / rate or now)
local punctual = promised and mine <= now + early

if room <= 0 or not (punctual or room > soon or 2 * waiting < waiting + room) then
  if rate <= 0 then return {'busy', ARGV[1], tostring(math.max(1, wait)), bound} end
  if promised and not punctual then return {'busy', ARGV[1], seconds(mine - now), bound} end
  local take_s = tonumber(ARGV[17]) / rate
  local at = now + (math.max(0, 1 - room) + due + 1) * take_s
  local last = redis.call('ZREVRANGE', KEYS[6], 0, 0, 'WITHSCORES')
  if last[2] and not promised then at = math.max(at, tonumber(last[2]) + take_s) end
  if at - now > furthest or name == '' or redis.call('ZCARD', KEYS[6]) >= tonumber(ARGV[16]) then
    redis.call('ZREM', KEYS[6], name)
  else
    redis.call('ZADD', KEYS[6], seconds(at), name)
    redis.call('EXPIRE', KEYS[6], math.ceil(furthest + tonumber(ARGV[14])))
  end
  return {'busy', ARGV[1], seconds(at - now), bound}
end

local reserved, live = tonumber(redis.call('GET', KEYS[4]) or '0'), redis.call('XLEN', KEYS[2])
local beyond = reserved + tonumber(ARGV[5]) - tonumber(ARGV[8])
if beyond > 0 then
  -- As many have to end as hold these bytes, at the pace of the line.
  if rate > 0 and live > 0 and reserved > 0 then wait = beyond * live / reserved / rate end
  return {'no_memory', ARGV[1], tostring(wait), 'server_memory'}
end
redis.call('ZREM', KEYS[6], name)

local entry = redis.call('XADD', KEYS[2], '*', 'id', ARGV[1], 'bytes', ARGV[5], 'm', ARGV[2])
redis.call('HSET', KEYS[1], 'phase', 'queued', 'attempt', 1, 'crashes', 0, 'tokens', ARGV[4],
  'submission', ARGV[2], 'listener', ARGV[3], 'entry', entry, 'bytes', ARGV[5], 'idempotency', KEYS[7] or '')
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('INCRBY', KEYS[4], ARGV[5])
for i = 1, 4 do
  redis.call('EXPIRE', KEYS[i], ARGV[9])
end
if KEYS[7] then
  redis.call('HSET', KEYS[7], 'digest', ARGV[11], 'id', ARGV[1])
  redis.call('EXPIRE', KEYS[7], ARGV[9])
end
return {'accepted', ARGV[1], '0', ''}
