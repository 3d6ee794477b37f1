#!lua flags=allow-oom
-- Who is a member now; forgets those whose membership has expired.
-- KEYS    1 members
-- ARGV    1 prefix of member keys
-- ANSWER  their WorkerInfo (bytes)
local infos = {}
for _, worker in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local info = redis.call('HGET', ARGV[1] .. worker, 'info')
  if info then
    infos[#infos + 1] = info
  else
    redis.call('SREM', KEYS[1], worker)
  end
end
return infos
