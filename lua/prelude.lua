-- prelude.lua: how every script begins.
-- ARGV     1 now in µs, for tests; empty: the clock of this server, read once | 2 least expiry in ms | 3 ms that a bucket which
--          starts below its capacity is kept after it has filled
-- numbers  integers below 2^53; no string is made of one but by '%.0f'

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local floor, idle = tonumber(ARGV[2]), tonumber(ARGV[3])
