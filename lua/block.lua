-- block.lua: blocks keys under the name of a policy, ends their blocks, or reads them.
-- KEYS     for each operation, the key of the block
-- ARGV     those of the prelude, then for each operation: the length of the block in µs, 0 to end it, -1 to read it
-- returns  for each key: the rest of the block that was read in µs, else 0. For a failed operation: -2 | reason
-- state    string: 'x1', end of the block in µs, length of the block in µs
-- expiry   the end of the block, and a second more

--@prelude
local answers = {}
for index = 1, #KEYS do
  local span = tonumber(ARGV[3 + index])
  local held, rest, problem = redis_pcall('GET', KEYS[index]), 0, nil
  if type(held) == 'table' then
    problem = held.err
  elseif span > 0 then
    local raw = struct_pack('<c2i8i8', 'x1', math.min(now + span, 9007199254740992), span)
    local px = math.max(math.ceil(span / 1000) + 1000, floor)
    problem = redis_pcall('SET', KEYS[index], raw, 'PX', string.format('%.0f', px)).err
  elseif span == 0 then
    local done = redis_pcall('DEL', KEYS[index])
    problem = type(done) == 'table' and done.err
  elseif held then
    --@block
  end
  answers[index] = problem and { -2, problem } or { rest }
end
return answers
