-- check.lua: decisions under one quota each, one after the other and independent of each other; for one algorithm.
-- KEYS     one key for each decision
-- ARGV     those of the prelude, then for each run of equal decisions: quota (see the algorithm) | cost | their number
-- returns  token buckets: for each decision its answer (see the algorithm).
--          Others: for each decision: retry (0 allowed, -1 never, else µs) | remaining | reset in µs | windows: place of
--          the charge. For a failed decision: -2 | reason | 0 | windows: 0
-- writes   one SET for each allowed decision, nothing for a denial (a log: RPUSH, PEXPIRE, LTRIM)

--@prelude
local key, quota, raw
--@names
local answers, count, go = {}, 0, true
local args, left, cost = 3, 0, nil
for index = 1, #KEYS do
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
  --@load
  --@view
  if not fault then
    --@decide
    --@finish
  end
  --@answer
end
return answers
