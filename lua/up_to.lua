-- up_to.lua: charges as many tokens to every quota as are there, from 1 to the cost. A cost of 0 only reads.
-- extra    empty
-- own      the charged tokens; 0 if the request is denied

--# member
if go == nil then
  --@load
end
--@view
if fault then return fault end
local most = cost
cost = math.min(most, 1)
if go then cost = math.min(most, least) end
--@decide
if fault then return fault end
if go == nil then
  --@snapshot
  least = math.min(least, math.max(1, remaining), math.max(1, most))
  return nil, retry
end
--@settle
return fault, retry, remaining, reset, place
