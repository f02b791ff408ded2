-- interval_bucket.lua: a bucket that gets `refill` tokens at once at the end of each period.
-- state    string: 'i1', debt in tokens, when the running period began, capacity (tells whether the quota has changed
--          since); no key owes `initial`
-- quota    capacity | refill | period in µs | tokens owed by a key never seen | offset of the periods from the epoch in µs,
--          -1: the first use begins one

--# names
local limit, refill, period, initial, origin, hold
--# quota
limit, refill, period, initial, origin = struct.unpack('<i8i8i8i8i8', quota, 2)
hold = initial > 0 and idle or 0
--# view
local debt, at, ahead, note, fault = initial, now, 0, initial > 0, nil
-- A full bucket has no clock: nil is the latest start of a period.
local anchor = nil
if raw then
  if #raw == 26 then
    local tag, was, since, capacity = struct.unpack('<c2i8i8i8', raw)
    local fine = was >= 0 and was <= 9007199254740992 and since >= -9007199254740992 and since <= 9007199254740992 and capacity > 0
    if tag == 'i1' and fine then
      if capacity ~= limit then was = math.min(was, 2 * limit) end
      debt, note = was, false
      if now >= since or since - now <= math.ceil(limit / refill) * period then
        if now < since then at, ahead = since, since - now end
        local ended = math.floor((at - since) / period)
        local paid = ended * refill
        debt = paid < was and was - paid or 0
        if debt > 0 then anchor = since + ended * period end
      else
        note = true
      end
      -- No reservation waits for longer.
      if debt / refill * period > 9007199254740992 then fault = 'CORRUPT' end
    else
      fault = 'CORRUPT'
    end
  else
    fault = raw.err or 'CORRUPT'
  end
end
if not anchor then anchor = origin < 0 and at or at - (at - origin) % period end
--# wait
local over = debt + cost - limit
if over > 0 then retry = math.ceil(over / refill) * period - (at - anchor) + ahead end
--# can_wait
local can_wait = debt + cost < 9007199254740992
--# charge
debt = debt + cost
--# penalize
debt = math.max(debt, math.min(debt + cost, 2 * limit))
--# refund
debt = math.max(0, debt - cost)
--# tell
remaining = math.max(0, limit - debt)
reset = debt > 0 and math.ceil(debt / refill) * period - (at - anchor) + ahead or 0
--# pack
raw = struct.pack('<c2i8i8i8', 'i1', debt, anchor, limit)
--# answer
answers[count + 1], answers[count + 2], answers[count + 3] = retry, remaining, reset
count = count + 3
--# since
since = 1
if #extra == 26 then
  local _, owed, anchor, capacity = struct.unpack('<c2i8i8i8', raw)
  local _, left, began, capacity_then = struct.unpack('<c2i8i8i8', extra)
  local passed = anchor - began
  if owed == 0 then
    since = 2
  elseif capacity == capacity_then and passed >= 0 and passed % period == 0 then
    if passed / period * refill == left - owed then since = 0 end
  end
end
--# take_back
local tag, was, since, capacity = struct.unpack('<c2i8i8i8', raw)
raw = struct.pack('<c2i8i8i8', tag, math.max(0, was - cost), since, capacity)
