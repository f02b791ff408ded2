-- prelude.lua: the start of every script.
-- ARGV     1 now in µs for tests, else empty: the clock of this server, read once | 2 shortest expiry in ms | 3 the
--          time in ms for which a bucket that starts below its capacity is kept after it has filled
-- numbers  integers below 2^53. They become strings only by '%.0f', or by '%d' behind the check of the word size

-- A decision calls these several times. A local is found faster than a field of a global.
local redis_pcall, struct_pack, struct_unpack = redis.pcall, struct.pack, struct.unpack
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local floor, idle = tonumber(ARGV[2]), tonumber(ARGV[3])
