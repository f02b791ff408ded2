-- fixed_window.lua: a count that starts at zero in each window. A window includes its start and excludes its end.
-- state    string: 'f1', start of the window in µs, tokens used in it. A missing key has used no token
-- quota    limit | window in µs | offset of the windows from the epoch in µs, or -1: the first charge starts a window
-- expiry   the end of the window, set by its first write: all quotas of this key have the same window

--# names
local limit, window, origin, keep
--# quota
limit, window, origin = struct_unpack('<i8i8i8', quota, 2)
--# view
local start, used, note, fault = origin < 0 and now or now - (now - origin) % window, 0, false, nil
local is_kept = false
if raw then
  if #raw == 18 then
    local tag, began, had = struct_unpack('<c2i8i8', raw)
    if tag ~= 'f1' or had < 0 or had > 9007199254740992 or began < -9007199254740992 or began > 9007199254740992 then
      fault = 'CORRUPT'
    elseif now >= began then
      if now - began < window and had > 0 then start, used, is_kept = began, had, true end
    elseif began - now <= window then
      start, used, is_kept = began, had, true
    else
      used, note = had, true
    end
  else
    fault = raw.err or 'CORRUPT'
  end
end
--# wait
if used + cost > limit then retry = start - now + window end
--# charge
used, place = used + cost, start
--# penalize
used = math.max(used, math.min(used + cost, 2 * limit))
--# refund
if place == start then used = math.max(0, used - cost) end
--# snapshot
remaining = math.max(0, limit - used)
keep = start - now + window
reset = used > 0 and keep or 0
--# save
-- Only the first write of a window sets the expiry. The setting `floor` counts from the last write.
--@pack
if is_kept and floor == 0 then
  --@store_only
else
  --@store
end
--# pack
raw = struct_pack('<c2i8i8', 'f1', start, used)
