#!lua
-- Adds lines to a request's timeline; an exact repeat of the last ones is left out.
-- KEYS    1 story
-- ARGV    1 lines kept  2 story_ttl_s  then the lines (bytes)
-- ANSWER  number of lines added
local count = #ARGV - 2
local tail = redis.call('LRANGE', KEYS[1], -count, -1)
local repeated = #tail == count
for i = 1, #tail do
  repeated = repeated and tail[i] == ARGV[i + 2]
end
if not repeated then
  redis.call('RPUSH', KEYS[1], unpack(ARGV, 3))
  redis.call('LTRIM', KEYS[1], -tonumber(ARGV[1]), -1)
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return repeated and 0 or count
