#!lua flags=allow-oom
-- Orders a head start: the job alone, once for each seq.
-- KEYS    1 epoch  2 jobs
-- ARGV    1 epoch  2 seq  3 AssistOrder (bytes)  4 entries kept in jobs  5 worker_ttl_s
-- ANSWER  done | superseded
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or '0') then return 'superseded' end
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 64)) do
  if entry[2][4] == ARGV[2] then return 'done' end
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'm', ARGV[3], 'seq', ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[5])
return 'done'
