-- token_bucket.lua: a bucket that refills continuously.
-- state    string: 'b2', debt in grains, the time of this debt in µs, grains per token, capacity (both to detect a
--          changed quota), the time in µs until which the key is kept. A missing key owes `initial`. 'b1' is the same
--          without the last number. It is read and never written
-- quota    capacity in tokens | grains refilled per µs | grains per token | grains that a new key owes
-- answer   of a check: the debt in grains after it, negative if the cost is denied; or, if the clock went back, the debt
--          and the µs by which the state is ahead. For a failed check: the reason
-- expiry   the latest expiry that any write needed, and up to a second more: a write by a faster quota of the same name
--          does not shorten it
-- numbers  a token is P grains and a µs refills A grains: whole numbers, all below 2^53

--# names
local limit, per_micro, per_token, initial, hold, keep
--# quota
limit, per_micro, per_token, initial = struct_unpack('<i8i8i8i8', quota, 2)
hold = initial > 0 and idle * 1000 or 0
--# view
local full = limit * per_token
local debt, at, ahead, note, fault, till = initial, now, 0, initial > 0, nil, 0
if raw then
  local new = #raw == 42
  if new or #raw == 34 then
    local tag, was, since, had, capacity, stored_till = struct_unpack(new and '<c2i8i8i8i8i8' or '<c2i8i8i8i8', raw)
    till = new and stored_till or 0
    local fine = tag == (new and 'b2' or 'b1') and till >= 0 and till <= 9007199254740992 and capacity > 0
    fine = fine and was >= 0 and was <= 9007199254740992 and since >= 0 and since <= 9007199254740992
    fine = fine and had > 0 and had <= 9007199254740992
    if fine then
      if had ~= per_token then was = math.min(math.ceil(was / had) * per_token, 2 * full) end
      if capacity ~= limit then was = math.min(was, 2 * full) end
      if now >= since then
        local paid = (now - since) * per_micro
        debt, note = paid < was and was - paid or 0, false
      elseif since - now <= math.ceil(full / per_micro) then
        debt, at, ahead, note = was, since, since - now, false
      else
        debt, note = was, true
        till = till - (since - now)
      end
    else
      fault = 'CORRUPT'
    end
  else
    fault = raw.err or 'CORRUPT'
  end
end
--# wait
-- The cost is subtracted first, because the sum of debt and cost can exceed 2^53.
local over = debt - (limit - cost) * per_token
if over > 0 then retry = math.ceil(over / per_micro) + ahead end
--# can_wait
local can_wait = debt < 9007199254740992 - cost * per_token
--# charge
debt = debt + cost * per_token
--# penalize
debt = math.max(debt, math.min(debt + cost * per_token, 2 * full))
--# refund
debt = math.max(0, debt - cost * per_token)
--# snapshot
remaining = debt < full and math.floor((full - debt) / per_token) or 0
reset = debt > 0 and math.ceil(debt / per_micro) + ahead or 0
keep = math.max(till - now, reset + hold)
--# save
-- A key that is kept for long enough keeps its expiry. A key that is written again gets an expiry one second later than
-- needed, so that a busy key sets it once a second. The setting `floor` counts from the last write.
if debt / per_micro + ahead + hold <= till - now and floor == 0 then
  raw = struct_pack('<c2i8i8i8i8i8', 'b2', debt, at, per_token, limit, till)
  --@store_only
else
  keep = math.max(till - now, math.ceil(debt / per_micro) + ahead + hold)
  if till > 0 then keep = keep + 1000000 end
  --@pack
  --@store
end
--# pack
raw = struct_pack('<c2i8i8i8i8i8', 'b2', debt, at, per_token, limit, math.min(now + keep, 9007199254740992))
--# finish
-- The client derives the snapshot from the debt.
if cost > 0 and retry == 0 then
  --@charge
  note = true
end
if note then
  --@save
end
--# answer
count = count + 1
if fault then
  answers[count] = { fault }
else
  if retry ~= 0 then debt = -debt end
  answers[count] = ahead == 0 and debt or { debt, ahead }
end
--# answer_blocked
count = count + 1
answers[count] = problem and { problem } or { 'BLOCKED', rest }
--# since
since = debt == 0 and 2 or 1
if debt > 0 and #extra == 42 then
  local _, owed, at, had, capacity = struct_unpack('<c2i8i8i8i8', raw)
  local _, left, taken, had_then, capacity_then = struct_unpack('<c2i8i8i8i8', extra)
  if had == had_then and capacity == capacity_then and (at == taken or (at > taken and had == per_token)) then
    -- A product above 2^53 is not exact. It is larger than any difference of two debts.
    if (at - taken) * per_micro == left - owed then since = 0 end
  end
end
--# take_back
local _, was, since, had, capacity = struct_unpack('<c2i8i8i8i8', raw)
was = math.max(0, was - cost * had)
raw = struct_pack('<c2i8i8i8i8i8', 'b2', was, since, had, capacity, math.max(0, till))
--# keep_until
raw = string.sub(raw, 1, -9) .. struct_pack('<i8', math.min(now + keep, 9007199254740992))
