-- operation.lua: an operation on all quotas of a policy at one time, all or nothing. It is composed for an operation
-- (its file has `member`) and for the algorithms of the policy. Several operations run one after the other and
-- independent of each other.
-- KEYS     one key for each quota, then the keys of the blocks of all scopes, if the operation can be denied
-- ARGV     those of the prelude, then for each operation: number of quotas | longest wait in µs, or -1 for no
--          reservation | number of blocks; then for each quota: quota (its first byte names the algorithm) | cost | extra (see the
--          operation)
-- returns  for each operation: own (see the operation), then for each quota: retry | remaining | reset | place; then,
--          for a reservation, the stored state of each quota. For a failed operation: -2 | reason.
--          For a blocked key: -3 | rest of the block in µs
-- writes   at most one SET with its expiry for each quota

--@prelude
local key, quota, cost, extra, raw, max_wait, least, blocks
local members = {}
--@each
do
  --@names
  members['@letter'] = function(go)
    local retry, remaining, reset, place = 0, 0, 0, 0
    --@quota
    --@word_size
    if narrow then return narrow end
    --@member
  end
end
--@end

--@why
-- Runs the operation whose keys and arguments follow these positions: reads all quotas, then changes all of them.
local function operate(keys, args, count)
  local longest_block = 0
  for index = 1, blocks do
    local shut = KEYS[keys + count + index]
    --@block
    if problem then return { -2, problem } end
    longest_block = math.max(longest_block, rest)
  end
  if longest_block > 0 then return { -3, longest_block } end
  least = 9007199254740992
  local raws, longest, never, fault = {}, 0, false, nil
  local function visit(go, index)
    local last = args + 3 * index
    key, quota, cost, extra = KEYS[keys + index], ARGV[last - 2], tonumber(ARGV[last - 1]), ARGV[last]
    return members[string.sub(quota, 1, 1)](go)
  end
  for index = 1, count do
    local retry
    fault, retry = visit(nil, index)
    if fault then return { -2, fault } end
    raws[index], longest, never = raw, math.max(longest, retry), never or retry < 0
  end
  local go, own = not never and longest == 0, 0
  if go and least < 9007199254740992 then own = least end
  if not go and not never and longest <= max_wait then go, own = 'take', longest end
  local answer, size = { own }, 1
  for index = 1, count do
    raw = raws[index]
    local fault, retry, remaining, reset, place = visit(go, index)
    if fault then return { -2, fault } end
    answer[size + 1], answer[size + 2], answer[size + 3], answer[size + 4] = retry, remaining, reset, place
    size, raws[index] = size + 4, raw
  end
  if max_wait >= 0 then
    for index = 1, count do answer[size + index] = raws[index] or '' end
  end
  return answer
end

local answers, keys, args = {}, 0, 3
while keys < #KEYS do
  local count = tonumber(ARGV[args + 1])
  max_wait, blocks = tonumber(ARGV[args + 2]), tonumber(ARGV[args + 3])
  local done, answer = pcall(operate, keys, args + 3, count)
  if not done then answer = { -2, why(answer) } end
  answers[#answers + 1] = answer
  keys, args = keys + count + blocks, args + 3 + 3 * count
end
return answers
