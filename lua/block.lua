-- block.lua: blocks keys under the name of a policy, or ends their blocks.
-- KEYS     one key for each operation
-- ARGV     those of the prelude, then for each operation: the length of the block in µs, 0 to end it
-- returns  for each key: 0. For a failed operation: -2 | reason
-- state    string: 'x1', end of the block in µs, length of the block in µs
-- expiry   the end of the block

--@prelude
local answers = {}
for index = 1, #KEYS do
  local span = tonumber(ARGV[3 + index])
  local had, done = redis_pcall('GET', KEYS[index]), nil
  if type(had) == 'table' then
    done = had
  elseif span > 0 then
    local raw = struct_pack('<c2i8i8', 'x1', math.min(now + span, 9007199254740992), span)
    local px = math.max(math.ceil(span / 1000) + 1000, floor)
    done = redis_pcall('SET', KEYS[index], raw, 'PX', string.format('%.0f', px))
  else
    done = redis_pcall('DEL', KEYS[index])
  end
  local problem = type(done) == 'table' and done.err
  answers[index] = problem and { -2, problem } or { 0 }
end
return answers
