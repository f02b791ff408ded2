-- cancel.lua: cancels a reservation: its charges go back if nothing but time has changed any of the charged quotas since it was
-- taken. What the reservation has left is brought forward to the time of the stored state; the clock plays no part.
-- extra    what the reservation has left stored, nothing if no key
-- own      0; of each quota, retry is 0 if the charge went back, 1 if it stays, 2 if there was nothing to give back

--# member
local since = 2
if go == nil then
  --@load
end
--@view
if fault then return fault end
if raw and cost > 0 then
  --@since
end
if go == nil then return nil, since % 2 end
local back = go and since == 0
if back then
  --@take_back
end
--@view
--@tell
if back then
  --@keep_until
  --@store
end
if not go and since == 0 then since = 1 end
return fault, since, remaining, reset, place
