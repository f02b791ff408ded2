-- reset.lua: deletes the keys.
-- extra    empty
-- own      0

--# member
if go == nil then
  --@load
end
--@view
if fault then return fault end
if go == nil then return nil, 0 end
local gone = redis_pcall('DEL', key)
if type(gone) == 'table' then return gone.err end
raw = nil
do
  --@view
  --@snapshot
end
return fault, retry, remaining, reset, place
