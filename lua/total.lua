-- total.lua: tokens that are spent once and never come back.
-- state    string: 't1', tokens used, the time of the last write in µs, the time in µs until which the key is kept, or
--          2^53: for ever. A missing key has used no token
-- quota    limit | the µs after the last write at which the state ends, or -1: never
-- expiry   none, unless the state ends; a write by another quota of the same name does not shorten it

--# names
local limit, span, keep
--# quota
limit, span = struct_unpack('<i8i8', quota, 2)
--# view
local used, at, till, cut, note, fault = 0, now, 0, false, false, nil
if raw then
  if #raw == 26 then
    local tag, had, since, kept = struct_unpack('<c2i8i8i8', raw)
    local fine = tag == 't1' and had >= 0 and had <= 9007199254740992 and since >= 0 and since <= 9007199254740992
    if not fine or kept < 0 or kept > 9007199254740992 then
      fault = 'CORRUPT'
    else
      till = kept
      if had > 0 and (span < 0 or now - since < span) then
        used, at, cut = math.min(had, 2 * limit), since, had > 2 * limit
        if span >= 0 and since - now > span then at, note = now, true end
      end
    end
  else
    fault = raw.err or 'CORRUPT'
  end
end
--# decide
if used + cost > limit and cost > 0 then retry = -1 end
-- A lowered limit cuts the debt for good, also when the cost is 0 or can never fit.
note = cut or (note and cost > 0 and cost <= limit)
--# charge
used = used + cost
--# penalize
used = math.max(used, math.min(used + cost, 2 * limit))
--# refund
used = math.max(0, used - cost)
--# snapshot
remaining = math.max(0, limit - used)
reset = used > 0 and -1 or 0
--# pack
at = math.max(at, now)
till = used == 0 and now or math.max(till, span < 0 and 9007199254740992 or math.min(at + span, 9007199254740992))
raw = struct_pack('<c2i8i8i8', 't1', used, at, till)
--# store
if till < 9007199254740992 then
  keep = math.max(0, till - now)
  local px = math.max(math.ceil(keep / 1000) + 1000, floor)
  fault = redis_pcall('SET', key, raw, 'PX', string.format('%d', px)).err
else
  fault = redis_pcall('SET', key, raw).err
end
