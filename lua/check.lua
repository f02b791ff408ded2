-- check.lua: decisions under one quota each, one after the other and independent of each other; for one algorithm.
-- KEYS     for each decision, the key of the quota; then for each decision, the key of the block
-- ARGV     those of the prelude, then the number of keys of blocks: that of the decisions, or 0 if no block is read;
--          then for each run of equal decisions: quota (see the algorithm) | cost | their number
-- returns  token buckets: for each decision its answer (see the algorithm).
--          Others: for each decision: retry (0 allowed, -1 never, else µs) | remaining | reset in µs | windows: place of
--          the charge. For a failed decision: -2 | reason | 0 | windows: 0. For a blocked key: -3 | rest of the block
--          in µs | 0 | windows: 0
-- writes   one SET for each allowed decision, nothing for a denial (a log: RPUSH, PEXPIRE, LTRIM)

--@prelude
--@read_blocks
local key, quota, raw
--@names
local answers, count, go = {}, 0, true
local args, left, cost = 4, 0, nil
for index = 1, first_block - 1 do
  key = KEYS[index]
  if left == 0 then
    quota, cost, left = ARGV[args + 1], tonumber(ARGV[args + 2]), tonumber(ARGV[args + 3])
    args = args + 3
    --@quota
    --@word_size
    if narrow then return redis.error_reply(narrow) end
  end
  left = left - 1
  local retry, remaining, reset, place = 0, 0, 0, 0
  local rest, problem = 0, nil
  local held = blocks[index]
  if held then
    --@block
  end
  if rest > 0 or problem then
    --@answer_blocked
  else
    --@load
    --@view
    if not fault then
      --@decide
      --@finish
    end
    --@answer
  end
end
return answers
