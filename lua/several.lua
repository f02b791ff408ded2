-- several.lua: a request under several quotas. Either all of them allow its cost and are charged, or none is charged.
-- A reservation charges all of them at once, beyond their capacity, if its wait is at most the longest accepted wait.
-- extra    empty
-- own      the wait of the reservation in µs; 0 if it is allowed at once, or denied

--# member
if go == nil then
  --@load
end
--@view
if fault then return fault end
--@decide
if fault then return fault end
if go == nil then
  if retry > 0 and max_wait >= 0 then
    --@can_wait
    if not can_wait then retry = -1 end
  end
  return nil, retry
end
if go == 'take' then retry = 0 end
--@settle
return fault, retry, remaining, reset, place
