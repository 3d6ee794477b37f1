#!lua flags=allow-oom
-- Appends tokens and perhaps the end to logs of one shard; to each log all of it or nothing. Memory for it was reserved at submission.
-- KEYS    for each log: head, entries
-- ARGV    1 live_ttl_s  2 ended_ttl_s
--         then for each log: attempt, digest of this append, '' or phase of the end and, if its writer says so, tokens of each
--         choice (with blanks between), end (bytes), number of LogTokens,
--         and for each of these: choice, index, number of tokens, entry (bytes)
-- ANSWER  for each log: missing | superseded | ended | gap | done, and behind a done that wrote something: the id of the entry
--         before, and the new entries' ids, with blanks between
local live_ms = tonumber(ARGV[1]) * 1000

local function append(head_key, entries_key, at)
  local attempt, digest, ending, count = ARGV[at], ARGV[at + 1], ARGV[at + 3], tonumber(ARGV[at + 4])
  local phase, counts = string.match(ARGV[at + 2], '^(%S*)(.*)$')
  local first, last = at + 5, at + 1 + count * 4
  local first_choice = ARGV[first] or '0'
  local head = redis.call('HMGET', head_key, 'fence', 'ended', 'last', 'tip', 'renewed', 'next:' .. first_choice)
  if not head[1] then return 'missing' end
  if tonumber(attempt) ~= tonumber(head[1]) then return 'superseded' end
  if head[3] == digest then return 'done' end
  if head[2] then return 'ended' end

  local coming = {}
  for i = first, last, 4 do
    local choice = ARGV[i]
    local expected = coming[choice]
    if not expected then
      expected = tonumber((choice == first_choice and head[6] or redis.call('HGET', head_key, 'next:' .. choice)) or '0')
    end
    if tonumber(ARGV[i + 1]) ~= expected then return 'gap' end
    coming[choice] = expected + tonumber(ARGV[i + 2])
  end

  -- Of several choices one may lack what a server lost, while the others go on: that is no end.
  local choice = 0
  for tokens in string.gmatch(counts, '%d+') do
    local has = coming[tostring(choice)] or tonumber(redis.call('HGET', head_key, 'next:' .. choice) or '0')
    if has ~= tonumber(tokens) then return 'gap' end
    choice = choice + 1
  end

  local answer, tip = {'done', head[4] or '0-0'}, nil
  for i = first, last, 4 do
    tip = redis.call('XADD', entries_key, '*', 'm', ARGV[i + 3])
    answer[#answer + 1] = tip
  end
  if phase ~= '' then
    tip = redis.call('XADD', entries_key, '*', 'm', ending)
    answer[#answer + 1] = tip
  end
  local fields = {'last', digest}
  if tip then
    fields[3], fields[4] = 'tip', tip
  end
  for choice, index in pairs(coming) do
    fields[#fields + 1] = 'next:' .. choice
    fields[#fields + 1] = string.format('%d', index)
  end

  -- To renew both expiries with every token would cost as much as the token: a 64th of the time to live is near enough.
  local now = tip and tonumber(string.match(tip, '^%d+')) or 0
  local renewed = tonumber(head[5] or '0')
  local due = now < renewed or now - renewed > live_ms / 64
  if due then
    fields[#fields + 1] = 'renewed'
    fields[#fields + 1] = string.format('%d', now)
  end
  if phase ~= '' then
    fields[#fields + 1] = 'ended'
    fields[#fields + 1] = phase
  end
  redis.call('HSET', head_key, unpack(fields))
  if due or phase ~= '' then
    local ttl = phase ~= '' and ARGV[2] or ARGV[1]
    redis.call('EXPIRE', head_key, ttl)
    redis.call('EXPIRE', entries_key, ttl)
  end
  return table.concat(answer, ' ')
end

local answers, at = {}, 3
for i = 1, #KEYS, 2 do
  answers[#answers + 1] = append(KEYS[i], KEYS[i + 1], at)
  at = at + 5 + 4 * tonumber(ARGV[at + 4])
end
return answers
