-- penalty.lua: charges without asking, up to twice the limit.
-- extra    nothing
-- own      0

--# member
if go == nil then
  --@load
end
--@view
if fault or go == nil then return fault, 0 end
if cost > 0 then
  --@penalize
end
--@tell
if cost > 0 then
  --@pack
  --@store
end
return fault, retry, remaining, reset, place
