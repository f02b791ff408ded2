-- operation.lua: an operation on all quotas of a policy at one time, all or nothing. It is composed for an operation
-- (its file has `member`) and for the algorithms of the policy. Several operations run one after the other and
-- independent of each other.
-- KEYS     for each operation, one key for each quota; then for each operation that can be denied, the key of the block
--          of each scope
-- ARGV     those of the prelude, then the number of keys of blocks; then for each operation: number of quotas | longest
--          wait in µs, or -1 for no reservation | number of blocks; then for each quota: quota (its first byte names
--          the algorithm) | cost | extra (see the operation)
-- returns  for each operation: own (see the operation), then for each quota: retry | remaining | reset | place; then,
--          for a reservation, the stored state of each quota. For a failed operation: -2 | reason.
--          If a scope is blocked: -3 | for each block its rest in µs, or 0; then for each quota as above
-- writes   at most one SET with its expiry for each quota

--@prelude
--@read_blocks
local key, quota, cost, extra, raw, max_wait, least
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
-- Runs the operation whose keys, arguments and blocks follow these positions: reads all quotas, then changes all.
local function operate(keys, args, count, seen, scopes)
  local answer, size, blocked = {}, 1, 0
  for index = 1, scopes do
    local rest, problem = 0, nil
    local held = blocks[seen + index]
    if held then
      --@block
    end
    if problem then return { -2, problem } end
    if rest > 0 then blocked = blocked + 1 end
    answer[1 + index] = rest
  end
  if blocked > 0 then answer[1], size = -3, 1 + scopes end
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
  local go, own = blocked == 0 and not never and longest == 0, 0
  if go and least < 9007199254740992 then own = least end
  if blocked == 0 and not go and not never and longest <= max_wait then go, own = 'take', longest end
  if blocked == 0 then answer[1] = own end
  for index = 1, count do
    raw = raws[index]
    local fault, retry, remaining, reset, place = visit(go, index)
    if fault then return { -2, fault } end
    answer[size + 1], answer[size + 2], answer[size + 3], answer[size + 4] = retry, remaining, reset, place
    size, raws[index] = size + 4, raw
  end
  if max_wait >= 0 and blocked == 0 then
    for index = 1, count do answer[size + index] = raws[index] or '' end
  end
  return answer
end

local answers, keys, args, seen = {}, 0, 4, 0
while keys + 1 < first_block do
  local count, scopes = tonumber(ARGV[args + 1]), tonumber(ARGV[args + 3])
  max_wait = tonumber(ARGV[args + 2])
  local done, answer = pcall(operate, keys, args + 3, count, seen, scopes)
  if not done then answer = { -2, why(answer) } end
  answers[#answers + 1] = answer
  keys, args, seen = keys + count, args + 3 + 3 * count, seen + scopes
end
return answers
