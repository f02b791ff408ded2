-- several.lua: a request under several quotas: every one allows its cost and all are charged, or none is. It may also reserve a
-- turn: then all are charged at once, beyond their capacity, if the longest wait is not above the longest accepted.
-- extra    nothing
-- own      the wait until the turn comes, in µs; 0: at once, or refused

--# member
if go == nil then
  --@load
end
--@view
if fault then return fault end
--@judge
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
