-- interval_bucket.lua: a bucket that gets `refill` tokens at once at the end of each period.
-- state    string: 'i2', debt in tokens, start of the current period in µs, capacity (to detect a changed quota), the
--          time in µs until which the key is kept. A missing key owes `initial`. 'i1' is the same without the last
--          number. It is read and never written
-- quota    capacity | refill | period in µs | tokens that a new key owes | offset of the periods from the epoch in µs,
--          or -1: the first use starts a period
-- expiry   the latest expiry that any write needed, and up to a second more: a write by a faster quota of the same name
--          does not shorten it

--# names
local limit, refill, period, initial, origin, hold, keep
--# quota
limit, refill, period, initial, origin = struct_unpack('<i8i8i8i8i8', quota, 2)
hold = initial > 0 and idle * 1000 or 0
--# view
local debt, at, ahead, note, fault, till = initial, now, 0, initial > 0, nil, 0
-- A full bucket has no period: nil stands for the latest start of one.
local anchor = nil
if raw then
  local new = #raw == 34
  if new or #raw == 26 then
    local tag, was, since, capacity, stored_till = struct_unpack(new and '<c2i8i8i8i8' or '<c2i8i8i8', raw)
    till = new and stored_till or 0
    local fine = tag == (new and 'i2' or 'i1') and till >= 0 and till <= 9007199254740992 and capacity > 0
    fine = fine and was >= 0 and was <= 9007199254740992 and since >= -9007199254740992 and since <= 9007199254740992
    if fine then
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
        till = till - (since - now)
      end
      -- No reservation has a longer wait.
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
--# snapshot
remaining = math.max(0, limit - debt)
reset = debt > 0 and math.ceil(debt / refill) * period - (at - anchor) + ahead or 0
keep = math.max(till - now, reset + hold)
--# save
-- A key that is kept for long enough keeps its expiry. A key that is written again gets an expiry one second later than
-- needed, so that a busy key sets it once a second. The setting `floor` counts from the last write.
if reset + hold <= till - now and floor == 0 then
  keep = till - now
  --@pack
  --@store_only
else
  if till > 0 then keep = keep + 1000000 end
  --@pack
  --@store
end
--# pack
raw = struct_pack('<c2i8i8i8i8', 'i2', debt, anchor, limit, math.min(now + keep, 9007199254740992))
--# answer
if fault then retry, remaining, reset = -2, fault, 0 end
answers[count + 1], answers[count + 2], answers[count + 3] = retry, remaining, reset
count = count + 3
--# answer_blocked
answers[count + 1], answers[count + 2], answers[count + 3] = -3, rest, 0
if problem then answers[count + 1], answers[count + 2] = -2, problem end
count = count + 3
--# since
since = debt == 0 and 2 or 1
if debt > 0 and #extra == 34 then
  local _, owed, anchor, capacity = struct_unpack('<c2i8i8i8', raw)
  local _, left, began, capacity_then = struct_unpack('<c2i8i8i8', extra)
  local passed = anchor - began
  if capacity == capacity_then and passed >= 0 and passed % period == 0 then
    if passed / period * refill == left - owed then since = 0 end
  end
end
--# take_back
local _, was, since, capacity = struct_unpack('<c2i8i8i8', raw)
was = math.max(0, was - cost)
raw = struct_pack('<c2i8i8i8i8', 'i2', was, since, capacity, math.max(0, till))
--# keep_until
raw = string.sub(raw, 1, -9) .. struct_pack('<i8', math.min(now + keep, 9007199254740992))
