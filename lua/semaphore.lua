-- semaphore.lua: the permits of a key. Operations run one after the other and independent of each other.
-- KEYS     three keys for each operation: sorted set of ids by the end of their lease in µs | hash of weights: id ->
--          weight - 1 unless this is 0, 'sum' -> their sum | hash of waiters: id -> arrival in µs, weight, capacity,
--          end of the place in µs
-- ARGV     those of the prelude, then for each operation: name (acquire, wait, renew, release, revoke, peek) | capacity
--          | lease in µs | weight | µs waited so far | number of ids | ids
-- returns  for each operation: { retry (0 acquired, -1 never, else µs) | remaining | reset in µs | weight of the
--          waiters in front | for each id of a renewal or release: 1 if it was held, 0 if it had ended }. For a failed
--          operation: { -2 | reason }
-- writes   nothing for a peek. A denial removes ended leases, and keeps the place of a waiter. The keys expire a second
--          after the last lease
-- revoked  a revoked id stays in the sorted set for one lease. Its score is the negative time at which this ends. A
--          later request for this id is denied. No other id has a negative score

--@prelude
if struct.size('l') < 8 then return redis.error_reply('WORDSIZE 32-bit server') end
-- A waiter asks again earlier than this. A waiter that does not loses its place after this time, in µs.
local FORGOTTEN = 1000000
-- The largest number of revoked ids of a key.
local MOST_REVOKED = 1024
local LARGEST = 9007199254740992
--@why

local function text(number)
  return string.format('%.0f', number)
end

local function corrupt()
  error({ err = 'CORRUPT' }, 0)
end

-- A number of the hash of weights.
local function stored(value)
  if not value then return 0 end
  local number = string.find(value, '^[1-9]%d*$') and tonumber(value)
  if not number or number > LARGEST then corrupt() end
  return number
end

-- The parts of a place in the queue: arrival, weight, capacity, end.
local function place_of(value)
  if #value ~= 32 then corrupt() end
  local at, own, most, gone = struct.unpack('<i8i8i8i8', value)
  local fine = math.abs(at) <= LARGEST and math.abs(gone) <= LARGEST
  if not fine or own < 1 or own > LARGEST or most < 1 then corrupt() end
  return at, own, most, gone
end

-- Reads and checks everything before the first write. Values of an unknown format stay as they are.
local function operate(held, weights, queue, op, capacity, lease, weight, waited, first, count)
  local latest = now + lease
  local answer = { 0, 0, 0, 0 }
  local sum = stored(redis.call('HGET', weights, 'sum'))
  -- A peek without weights needs only the number of current leases.
  local over = (op ~= 'peek' or sum > 0) and redis.call('ZRANGEBYSCORE', held, '0', text(now)) or {}
  local standing = redis.call('ZCOUNT', held, '(' .. text(now), '+inf')
  -- If another program has deleted the holders, only weights are left. They would count for ever.
  local orphaned = sum > 0 and #over + standing == 0
  local extras, freed = {}, orphaned and sum or 0
  if sum > 0 then
    for index, id in ipairs(over) do
      extras[index] = stored(redis.call('HGET', weights, id))
      freed = freed + extras[index]
    end
    if freed > sum then corrupt() end
  end
  local live = standing + sum - freed

  local function snapshot(weight)
    local last = redis.call('ZREVRANGE', held, 0, 0, 'WITHSCORES')[2]
    answer[2] = math.max(0, capacity - weight)
    answer[3] = last and math.max(0, math.min(tonumber(last), latest) - now) or 0
    return answer
  end

  local function free(by)
    if by == 0 then return end
    sum = sum - by
    if sum == 0 then redis.call('DEL', weights) else redis.call('HINCRBY', weights, 'sum', text(-by)) end
  end

  -- Leases that are over go, and none is longer than one that begins now: the clock may have gone back.
  local function tidy()
    for index, id in ipairs(over) do
      redis.call('ZREM', held, id)
      if extras[index] and extras[index] > 0 then redis.call('HDEL', weights, id) end
    end
    free(freed)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', held, '(' .. text(latest), '+inf')) do
      redis.call('ZADD', held, text(latest), id)
    end
  end

  -- Never shortens an expiry: the set can hold a revoked id of a longer lease.
  local function keep()
    local px = math.max(math.ceil(lease / 1000) + 1000, floor)
    for _, key in ipairs({ held, sum > 0 and weights or nil }) do
      redis.call('PEXPIRE', key, text(math.max(px, redis.call('PTTL', key))))
    end
  end

  if op == 'peek' then return snapshot(live) end

  if op == 'renew' then
    -- Comes first and always. PEXPIRE works while memory is full, and after a first write all others work, so no permit
    -- is lost.
    keep()
    tidy()
    for index = 1, count do
      local id = ARGV[first + index]
      local lasts = tonumber(redis.call('ZSCORE', held, id) or 0) > now
      if lasts then redis.call('ZADD', held, text(latest), id) end
      answer[4 + index] = lasts and 1 or 0
    end
    return snapshot(live)
  end

  local id = ARGV[first + 1]
  -- The end of the lease of this id, negative if it was revoked.
  local own_end = tonumber(redis.call('ZSCORE', held, id) or 0)
  local lasts = own_end > now

  if op == 'release' or op == 'revoke' then
    local extra = lasts and sum > 0 and stored(redis.call('HGET', weights, id)) or 0
    if extra > sum - freed then corrupt() end
    -- Comes first: if the key is no hash, this fails before the first write.
    redis.call('HDEL', queue, id)
    tidy()
    if lasts then
      redis.call('ZREM', held, id)
      if extra > 0 then redis.call('HDEL', weights, id) end
      free(extra)
      live = live - 1 - extra
    end
    if op == 'revoke' then
      -- The highest scores end first. Ended ids are removed, and current ones if there are too many.
      local ended = redis.call('ZRANGEBYSCORE', held, text(-now), '(0')
      local revoked = redis.call('ZCOUNT', held, '-inf', '(0')
      if revoked - #ended >= MOST_REVOKED then
        ended = redis.call('ZRANGE', held, MOST_REVOKED - 1, revoked - 1)
      end
      for _, other in ipairs(ended) do redis.call('ZREM', held, other) end
      redis.call('ZADD', held, text(-latest), id)
      keep()
    end
    answer[5] = lasts and 1 or 0
    return snapshot(live)
  end

  if own_end < 0 and -own_end > now then
    answer[1] = math.max(1, math.min(-own_end, latest) - now)
    return snapshot(live)
  end
  if lasts then
    tidy()
    redis.call('ZADD', held, text(latest), id)
    keep()
    return snapshot(live)
  end
  if weight == 0 or weight > capacity then
    tidy()
    if weight > 0 then answer[1] = -1 end
    return snapshot(live)
  end

  -- Earlier waiters are in front, except a waiter with a smaller capacity that has no room now.
  local came, front, forgotten = now - waited, 0, {}
  if op == 'wait' then
    local places = redis.call('HGETALL', queue)
    local others = {}
    for index = 1, #places, 2 do
      local at, own, most, gone = place_of(places[index + 1])
      if places[index] == id then
        -- The earlier arrival counts: the clock can have gone back.
        came = math.min(came, at)
      elseif gone <= now or gone > now + FORGOTTEN then
        forgotten[#forgotten + 1] = places[index]
      else
        others[#others + 1] = { places[index], at, own, most }
      end
    end
    for _, other in ipairs(others) do
      local sooner = other[2] < came or (other[2] == came and other[1] < id)
      if sooner and (other[4] >= capacity or live + other[3] <= other[4]) then front = front + other[3] end
    end
    answer[4] = front
  end

  local missing = live + front + weight - capacity
  if missing > 0 then
    -- The time until leases of the missing weight have ended, the earliest first.
    local last
    local place = redis.call('ZCARD', held) - standing
    if sum == freed then
      place = place + math.min(missing, live) - 1
      last = redis.call('ZRANGE', held, place, place, 'WITHSCORES')[2]
    else
      local gone = 0
      while gone < missing do
        local some = redis.call('ZRANGE', held, place, place + 99, 'WITHSCORES')
        if #some == 0 then break end
        for index = 1, #some, 2 do
          if gone < missing then
            gone, last = gone + 1 + stored(redis.call('HGET', weights, some[index])), some[index + 1]
          end
        end
        place = place + 100
      end
    end
    answer[1] = math.max(1, math.min(tonumber(last or 0), latest) - now)
  end

  tidy()
  for _, gone in ipairs(forgotten) do redis.call('HDEL', queue, gone) end
  if missing > 0 then
    if op == 'wait' then
      redis.call('HSET', queue, id, struct.pack('<i8i8i8i8', came, weight, capacity, now + FORGOTTEN))
      redis.call('PEXPIRE', queue, text(2 * FORGOTTEN / 1000))
    end
    return snapshot(live)
  end
  redis.call('ZADD', held, text(latest), id)
  if weight > 1 then
    redis.call('HSET', weights, id, text(weight - 1))
    sum = redis.call('HINCRBY', weights, 'sum', text(weight - 1))
  end
  if op == 'wait' then redis.call('HDEL', queue, id) end
  keep()
  return snapshot(live + weight)
end

local answers, keys, args = {}, 0, 3
while keys < #KEYS do
  local count = tonumber(ARGV[args + 6])
  local done, answer = pcall(operate, KEYS[keys + 1], KEYS[keys + 2], KEYS[keys + 3], ARGV[args + 1],
    tonumber(ARGV[args + 2]), tonumber(ARGV[args + 3]), tonumber(ARGV[args + 4]), tonumber(ARGV[args + 5]),
    args + 6, count)
  if not done then answer = { -2, why(answer) } end
  answers[#answers + 1] = answer
  keys, args = keys + 3, args + 6 + count
end
return answers
