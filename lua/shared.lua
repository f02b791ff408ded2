-- shared.lua: what the algorithms have in common; a section of the same name in theirs goes before.
-- A section is code in place: it reads key, quota (packed), cost and now, and leaves raw (the stored string), retry (0: the cost
-- fits, -1: it never will, else µs), remaining, reset (µs), keep (µs from now for which the key is needed, reset or longer), place
-- (where the charge lies), fault (text) and note (whether even a refusal has to be written down).

--# load
raw = redis.pcall('GET', key)
--# word_size
-- The limit comes with 2^41 added: a 32-bit server, which loses the upper half of a packed number, reads less.
limit = limit - 2199023255552
local narrow = limit < 0 and 'WORDSIZE 32-bit server' or nil
--# why
-- The text of an error. Those of Redis begin with a code in capitals. One without is an error of Lua itself, which only contents
-- that are not ours cause.
local function why(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  return string.find(text, '%u%u%u') and text or 'CORRUPT'
end
--# judge
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
--@tell
if note then
  --@pack
  --@store
end
--# store
local px = math.max(math.ceil(keep / 1000) + 1000, floor)
fault = redis.pcall('SET', key, raw, 'PX', string.format('%.0f', px)).err
--# answer
answers[count + 1], answers[count + 2], answers[count + 3], answers[count + 4] = retry, remaining, reset, place
count = count + 4
--# can_wait
local can_wait = false
--# since
since = 1
--# can_refund
--# take_back
--# keep_until
