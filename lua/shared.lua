-- shared.lua: the common sections of the algorithms. A section of the same name in an algorithm's file has precedence.
-- A section is inlined code. It reads key, quota (packed), cost and now. It sets:
-- raw        the stored string
-- retry      0 if the cost fits, -1 if it never fits, else the wait in µs
-- remaining  tokens
-- reset      µs
-- keep       the time in µs from now for which the key is needed, at least reset
-- place      the position of the charge
-- fault      the text of an error
-- note       whether also a denial must be stored

--# load
raw = redis_pcall('GET', key)
--# read_blocks
-- Reads the blocks of all decisions at once. A key of another type counts as no block.
local first_block, blocks = #KEYS - tonumber(ARGV[4]) + 1, {}
if first_block <= #KEYS then
  blocks = redis_pcall('MGET', unpack(KEYS, first_block))
  if blocks.err then return redis.error_reply(blocks.err) end
end
--# block
-- Sets rest, the µs that are left of the stored block `held`, and problem, the text of an error. A block is never
-- longer than it was at its start, also if the clock went back.
if #held == 18 then
  local tag, till, span = struct_unpack('<c2i8i8', held)
  if tag == 'x1' and span > 0 then rest = math.max(0, math.min(till - now, span)) else problem = 'CORRUPT' end
else
  problem = 'CORRUPT'
end
--# answer_blocked
answers[count + 1], answers[count + 2], answers[count + 3], answers[count + 4] = -3, rest, 0, 0
if problem then answers[count + 1], answers[count + 2] = -2, problem end
count = count + 4
--# word_size
-- The limit has 2^41 added. A 32-bit server loses the upper half of a packed number and reads less.
limit = limit - 2199023255552
local narrow = limit < 0 and 'WORDSIZE 32-bit server' or nil
--# why
-- The text of an error. Errors of Redis have a code in capitals, or begin with '@' (6.2). Any other error is one of Lua,
-- and only a value of an unknown format causes it.
local function why(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  return (string.find(text, '%u%u%u') or string.sub(text, 1, 1) == '@') and text or 'CORRUPT'
end
--# decide
if cost > limit then
  retry, note = -1, false
elseif cost > 0 then
  --@wait
else
  note = false
end
--# settle
if go and cost > 0 and retry == 0 then
  --@charge
  note = true
end
--@snapshot
if note then
  --@save
end
--# finish
--@settle
--# save
--@pack
--@store
--# store
local px = math.max(math.ceil(keep / 1000) + 1000, floor)
-- The word size was checked, so '%d' takes all 64 bits. It takes half the time of '%.0f'.
fault = redis_pcall('SET', key, raw, 'PX', string.format('%d', px)).err
--# store_only
-- The expiry stays. A write with an expiry takes almost twice as long.
fault = redis_pcall('SET', key, raw, 'KEEPTTL').err
--# answer
if fault then retry, remaining, reset, place = -2, fault, 0, 0 end
answers[count + 1], answers[count + 2], answers[count + 3], answers[count + 4] = retry, remaining, reset, place
count = count + 4
--# can_wait
local can_wait = false
--# since
since = 1
--# can_refund
--# take_back
--# keep_until
