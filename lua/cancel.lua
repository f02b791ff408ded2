-- cancel.lua: gives a turn up: its charge goes back if all quotas are still as the turn has left them, else it passes unused.
-- extra    what the turn has left stored, nothing if no key
-- own      0; the first quota's retry is 1 if the charge stays, 0 if it went back

--# member
if go == nil then
  --@load
  if type(raw) == 'table' then return raw.err end
  return nil, (raw or '') == extra and 0 or 1
end
local back = go and raw and cost > 0
if back then
  --@take_back
end
--@view
if fault then return fault end
--@tell
if back then
  --@store
end
return fault, go and 0 or 1, remaining, reset, place
