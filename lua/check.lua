-- check.lua: decisions under one quota each, one after the other, each as if it were alone; made for one algorithm.
-- KEYS     one a decision
-- ARGV     prelude's, then of each run of decisions that ask for the same: quota (see the algorithm) | cost | how many
-- returns  of each decision: retry 0 allowed, -1 never, else µs | remaining | reset in µs | windows: place of the charge. Of one
--          that failed: -2 | why | 0 | windows: 0
-- writes   one SET with its expiry for each that is allowed, nothing for a refusal (a log: RPUSH, PEXPIRE, LTRIM)

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
    --@judge
    --@settle
  end
  if fault then retry, remaining, reset, place = -2, fault, 0, 0 end
  --@answer
end
return answers
