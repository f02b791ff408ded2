-- cancel.lua: cancels a reservation. Its charges are returned if only time has changed the charged quotas since then.
-- The state that the reservation has left is aged to the time of the stored state. A quota that owes nothing now has
-- nothing to return: memory may have removed its state already.
-- extra    the state that the reservation has left, empty for no key
-- own      0. The retry of each quota is 0 if its charge was returned, 1 if it stays, 2 if there was nothing to return

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
--@snapshot
if back then
  --@keep_until
  --@store
end
if not go and since == 0 then since = 1 end
return fault, since, remaining, reset, place
