-- calendar_window.lua: a count that starts at zero in each window of a calendar, which only the caller knows.
-- state    string: 'd1', a time in the window in µs, tokens used in it, the time in µs until which the key is kept. A
--          missing key has used no token
-- quota    limit | 6 edges in µs of 5 windows that follow each other, around the caller's time
-- expiry   the end of the window, or the latest end that any write needed: quotas of this key may have other calendars
-- fault    'CALENDAR' and the time of this server, if the edges are not around it. Nothing is done then

--# names
local limit, edges, here, keep
--# quota
limit = struct_unpack('<i8', quota, 2)
edges, here = { struct_unpack('<i8i8i8i8i8i8', quota, 10) }, 0
for index = 1, 5 do
  if edges[index] <= now and now < edges[index + 1] then here = index end
end
--# view
local start, finish, used, note, fault = now, now, 0, false, nil
local is_kept, till = false, 0
if here == 0 then
  fault = string.format('CALENDAR %.0f', now)
else
  start, finish = edges[here], edges[here + 1]
  if not raw then
    used = 0
  elseif #raw == 26 then
    local tag, began, had, stored_till = struct_unpack('<c2i8i8i8', raw)
    local fine = tag == 'd1' and had >= 0 and had <= 9007199254740992 and stored_till >= 0
    fine = fine and stored_till <= 9007199254740992 and began >= -9007199254740992 and began <= 9007199254740992
    if fine then
      till = stored_till
      if had > 0 and began >= finish then
        -- The clock went back to an earlier window. No window is longer than the two before it together.
        local later = 0
        for index = here + 1, 5 do
          if edges[index] <= began and began < edges[index + 1] then later = index end
        end
        if later > 0 and began - now <= edges[later + 1] - edges[later] then
          start, finish, used, is_kept = began, edges[later + 1], had, true
        elseif later == 0 and here > 3 then
          fault = string.format('CALENDAR %.0f', now)
        else
          used, note, till = had, true, math.max(0, till - (began - now))
        end
      elseif had > 0 and began >= start then
        start, used, is_kept = began, had, true
      end
    else
      fault = 'CORRUPT'
    end
  else
    fault = raw.err or 'CORRUPT'
  end
end
--# wait
if used + cost > limit then retry = finish - now end
--# charge
used, place = used + cost, start
--# penalize
used = math.max(used, math.min(used + cost, 2 * limit))
--# refund
if place == start then used = math.max(0, used - cost) end
--# snapshot
remaining = math.max(0, limit - used)
reset = used > 0 and finish - now or 0
keep = math.max(finish, till) - now
--# save
-- A key that is kept for long enough keeps its expiry. The setting `floor` counts from the last write.
--@pack
if is_kept and till >= finish and floor == 0 then
  --@store_only
else
  --@store
end
--# pack
raw = struct_pack('<c2i8i8i8', 'd1', start, used, math.min(now + keep, 9007199254740992))
