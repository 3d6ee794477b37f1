#!lua flags=allow-oom
-- A host's agent says that it lives and what it runs, or takes its leave. One host, one agent.
-- KEYS    1 agent  2 agents
-- ARGV    1 host  2 AgentInfo (bytes)  3 lease in milliseconds (0: it leaves)  4 incarnation
-- ANSWER  1, or 0 if another incarnation holds the lease
local holder = redis.call('HGET', KEYS[1], 'incarnation')
if holder and holder ~= ARGV[4] then return 0 end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
  redis.call('SREM', KEYS[2], ARGV[1])
  return 1
end
redis.call('HSET', KEYS[1], 'info', ARGV[2], 'incarnation', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return 1
