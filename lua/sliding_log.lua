-- sliding_log.lua: every charge with its time; one at t counts while now - t < window.
-- state    list, oldest first, each entry: 'l1', time of the charge in µs, number, sum of all charges up to this one, its own
--          cost. Sums and numbers only grow, so that what counts and what makes room are found by binary search
-- quota    limit | window in µs
-- expiry   one window after the newest charge; what has passed is dropped by the next charge, not by a refusal
-- place    the number of the entry

--# names
local limit, window
-- The entry at `index`, in its parts.
local function entry(index)
  local text = redis.call('LINDEX', key, index)
  if text and #text == 34 then
    local tag, time, number, sum, cost = struct.unpack('<c2i8i8i8i8', text)
    local fine = time >= 0 and time <= 9007199254740992 and number >= 0 and number <= 9007199254740992 and sum <= 9007199254740992
    if tag == 'l1' and fine and cost > 0 and cost <= sum then return time, number, sum, cost end
  end
  error({ err = 'CORRUPT' }, 0)
end
local function packed(time, number, sum, cost)
  return struct.pack('<c2i8i8i8i8', 'l1', time, number, sum, cost)
end
-- The first index from `low` for which `found` holds, else `high`. It is looked for near `low` first.
local function first(low, high, found)
  local step = 1
  while low + step <= high and not found(low + step - 1) do low, step = low + step, step * 2 end
  high = math.min(high, low + step - 1)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if found(middle) then high = middle else low = middle + 1 end
  end
  return low
end
-- The log brought to now: how many entries there are and how many of them have passed, what the others add up to, and the last.
local function read()
  local log = { at = now, passed = 0, sum = 0, last = 0, number = -1, newest = now, rebase = false }
  local count = redis.pcall('LLEN', key)
  if type(count) == 'table' then error(count, 0) end
  log.count = count
  if count == 0 then return log end
  local newest, number, last = entry(-1)
  if now < newest then
    if newest - now <= window then log.at = newest else log.rebase = true end
  end
  log.number, log.last, log.newest = number, last, math.min(newest, log.at)
  -- What lies in the future counts: it moves to now.
  local oldest, _, sum, cost = entry(0)
  if log.at - oldest >= window then
    log.passed = first(1, count, function(index) return log.at - entry(index) < window end)
    if log.passed == count then return log end
    oldest, _, sum, cost = entry(log.passed)
  end
  log.sum = last - sum + cost
  if log.sum <= 0 then error({ err = 'CORRUPT' }, 0) end
  return log
end
-- Moves what lies in the future to now.
local function rebase(log)
  if not log.rebase then return end
  for index = log.count - 1, 0, -1 do
    local time, number, sum, cost = entry(index)
    if time <= log.at then break end
    redis.call('LSET', key, index, packed(log.at, number, sum, cost))
  end
end
-- Appends a charge, and drops what has passed. First what memory can be short for.
local function write(log, add, px)
  rebase(log)
  if add > 0 then
    redis.call('RPUSH', key, packed(log.at, math.max(log.number + 1, log.at), log.last + add, add))
    if log.passed > 0 then redis.call('LTRIM', key, log.passed, -1) end
  end
  redis.call('PEXPIRE', key, px)
end
-- Takes up to `cost` off the entry of this number. Sums count by their differences: those behind it fall, or those before it
-- rise, whichever are fewer.
local function give_back(log, number, cost)
  -- Sooner than the newest entry, by which it is seen, can go.
  rebase(log)
  local index = first(log.passed, log.count, function(index)
    local _, other = entry(index)
    return other >= number
  end)
  if index == log.count then return end
  local time, other, sum, own = entry(index)
  if other ~= number then return end
  local back = math.min(own, cost)
  local from, to, change = index + 1, log.count - 1, -back
  if index < to - from then from, to, change = 0, index - 1, back end
  for side = from, to do
    local time, other, sum, own = entry(side)
    redis.call('LSET', key, side, packed(time, other, sum + change, own))
  end
  if back < own then
    redis.call('LSET', key, index, packed(time, other, sum + math.min(change, 0), own - back))
  else
    redis.call('LREM', key, from == 0 and 1 or -1, packed(time, other, sum, own))
  end
end
--@why
--# quota
limit, window = struct.unpack('<i8i8', quota, 2)
--# load
raw = nil
--# view
local add, note, fault, log = 0, false, nil, nil
do
  local fine, found = pcall(read)
  if fine then log, note, raw = found, found.rebase, found.count > 0 else fault = why(found) end
end
--# decide
do
  local fine, problem = pcall(function()
    --@judge
    --@settle
  end)
  if not fine then fault = why(problem) end
end
--# wait
if log.sum + cost > limit then
  local leaves = first(log.passed, log.count - 1, function(index)
    local _, _, sum = entry(index)
    return log.last - sum <= limit - cost
  end)
  retry = math.min((entry(leaves)), log.at) - now + window
  if retry < 1 then error({ err = 'CORRUPT' }, 0) end
end
--# charge
add, place = cost, math.max(log.number + 1, log.at)
log.sum, log.newest = log.sum + add, log.at
--# penalize
add = math.min(cost, math.max(0, 2 * limit - log.sum))
if add > 0 then log.sum, log.newest = log.sum + add, log.at end
--# refund
do
  local fine, problem = pcall(give_back, log, place, cost)
  if not fine then return why(problem) end
  fine, log = pcall(read)
  if not fine then return why(log) end
end
--# tell
remaining = math.max(0, limit - log.sum)
reset = log.sum > 0 and log.newest - now + window or 0
--# pack
--# store
do
  local px = string.format('%.0f', math.max(math.ceil(reset / 1000) + 1000, floor))
  local fine, problem = pcall(write, log, add, px)
  if not fine then fault = why(problem) end
end
