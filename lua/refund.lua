-- refund.lua: returns the part of a charge that still counts. No quota gains more than that, and no key is created.
-- extra    the place of the charge
-- own      0

--# member
if go == nil then
  --@load
end
--@view
if go == nil and not fault and raw and cost > 0 then
  --@can_refund
end
if fault or go == nil then return fault, 0 end
local there = raw and cost > 0
if there then
  place = tonumber(extra)
  --@refund
end
--@snapshot
if there then
  --@pack
  --@store
end
return fault, retry, remaining, reset, place
