#!lua flags=allow-oom
-- The leader says how much may wait and how long it takes.
-- KEYS    1 epoch  2 load
-- ARGV    1 epoch  2 waiting  3 max_waiting  4 predicted_wait_s  5 takes_per_s  6 kv_takes_per_s  7 load_ttl_s  8 version of its messages
-- ANSWER  done | superseded
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[1]) or '0') then return 'superseded' end
redis.call('HSET', KEYS[2], 'waiting', ARGV[2], 'max_waiting', ARGV[3], 'predicted_wait_s', ARGV[4],
  'takes_per_s', ARGV[5], 'kv_takes_per_s', ARGV[6], 'version', ARGV[8])
redis.call('EXPIRE', KEYS[2], ARGV[7])
return 'done'
