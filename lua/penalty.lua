-- penalty.lua: charges unconditionally, up to twice the limit.
-- extra    empty
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
--@snapshot
if cost > 0 then
  --@pack
  --@store
end
return fault, retry, remaining, reset, place
