-- sliding_window.lua: two counts. The older count is weighted by the part of its window that a window ending now
-- covers.
-- state    string: 's1', start of the current window in µs, tokens used in it, tokens used in the window before it
-- quota    limit | window in µs | tick in µs, the step of the weight | ticks of a window, rounded up
-- expiry   the end of the next window, set by the first write: all quotas of this key have the same window
-- numbers  limit × ticks is at most 2^51, so that no product exceeds 2^53. The carried part is compared as a fraction

--# names
local limit, window, tick, ticks, keep
--# quota
limit, window, tick, ticks = struct_unpack('<i8i8i8i8', quota, 2)
--# view
local start, current, previous, at, note, fault = now - now % window, 0, 0, now, false, nil
local is_kept = false
if raw then
  if #raw == 26 then
    local tag, began, had, before = struct_unpack('<c2i8i8i8', raw)
    had, before = math.min(had, 2 * limit), math.min(before, 2 * limit)
    if tag ~= 's1' or had < 0 or before < 0 or began < 0 or began > 9007199254740992 then
      fault = 'CORRUPT'
    elseif now >= began then
      if now - began < window then
        start, current, previous, is_kept = began, had, before, true
      elseif now - began < 2 * window then
        start, previous = began + window, had
      end
    elseif began - now <= window then
      start, current, previous, at, is_kept = began, had, before, began, true
    else
      current, previous, note = had, before, true
    end
  else
    fault = raw.err or 'CORRUPT'
  end
end
local left = ticks - math.floor((at - start) / tick)
--# wait
local room = limit - current - cost
if room < 0 or previous * left > room * ticks then
  -- The first time at which the cost fits, in this window or the two after it. After these nothing counts any more.
  local since, counted, carried = start - now, current, previous
  retry = nil
  repeat
    room = limit - counted - cost
    if room >= 0 then
      local passed = carried <= room and 0 or ticks - math.floor(room * ticks / carried)
      if passed < ticks then retry = since + passed * tick end
    end
    since, counted, carried = since + window, 0, counted
  until retry
end
--# charge
current, place = current + cost, start
--# penalize
current = math.max(current, math.min(current + cost, 2 * limit))
--# refund
if place == start then
  current = math.max(0, current - cost)
elseif place == start - window then
  previous = math.max(0, previous - cost)
end
--# snapshot
remaining = math.max(0, limit - current - math.ceil(previous * left / ticks))
keep, reset = start - now + 2 * window, 0
if current > 0 then
  reset = keep
elseif previous > 0 then
  reset = start - now + window
end
--# save
-- Only the first write of a window sets the expiry. The setting `floor` counts from the last write.
--@pack
if is_kept and floor == 0 then
  --@store_only
else
  --@store
end
--# pack
raw = struct_pack('<c2i8i8i8', 's1', start, current, previous)
