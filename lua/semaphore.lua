-- semaphore.lua: who holds which permit of a key; operations one after the other, each as if it were alone.
-- KEYS     three an operation: sorted set of ids by the end of their lease in µs | hash of weights: id -> weight - 1 where that is
--          not 0, 'sum' -> all of them | hash of those who wait: id -> came at µs, weight, capacity, forgotten at µs
-- ARGV     prelude's, then of each operation: its name (acquire, wait, renew, release, peek) | capacity | lease in µs | weight |
--          µs waited already | how many ids | ids
-- returns  of each operation: { retry 0 acquired, -1 never, else µs | remaining | reset in µs | weight that stands in front |
--          of each id of a renewal or release: 1 it lasted, 0 it was over }. Of one that failed: { -2 | why }
-- writes   nothing for a look; a refusal drops what is over, and keeps the place of one who waits. What is kept expires a
--          second after the last lease

--@prelude
-- Those who wait ask again sooner; who does not is forgotten after so long, in µs.
local FORGOTTEN = 1000000

local function text(number)
  return string.format('%.0f', number)
end

local function operate(held, weights, line, op, capacity, lease, weight, waited, first, count)
  local latest = now + lease
  local sum = tonumber(redis.call('HGET', weights, 'sum') or 0)
  local answer = { 0, 0, 0, 0 }
  -- Weights alone are what is left where somebody has deleted the holders: kept, they would count for as long as others come.
  if sum > 0 and redis.call('ZCARD', held) == 0 then
    sum = 0
    if op ~= 'peek' then redis.call('DEL', weights) end
  end

  local function forget_weight(id)
    local extra = sum > 0 and redis.call('HGET', weights, id)
    if extra then
      redis.call('HDEL', weights, id)
      sum = redis.call('HINCRBY', weights, 'sum', -extra)
      if sum == 0 then redis.call('DEL', weights) end
    end
  end

  local function weight_of(id)
    return 1 + tonumber(sum > 0 and redis.call('HGET', weights, id) or 0)
  end

  local function tell(live)
    local last = redis.call('ZREVRANGE', held, 0, 0, 'WITHSCORES')[2]
    answer[2] = math.max(0, capacity - live)
    answer[3] = last and math.max(0, math.min(tonumber(last), latest) - now) or 0
    return answer
  end

  if op == 'peek' then
    local live = redis.call('ZCOUNT', held, '(' .. text(now), '+inf') + sum
    if sum > 0 then
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', text(now))) do
        live = live - weight_of(id) + 1
      end
    end
    return tell(live)
  end

  -- Leases that are over go, and none is longer than one that begins now: the clock may have gone back.
  local over = redis.call('ZRANGEBYSCORE', held, '-inf', text(now))
  for _, id in ipairs(over) do
    redis.call('ZREM', held, id)
    forget_weight(id)
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', held, '(' .. text(latest), '+inf')) do
    redis.call('ZADD', held, text(latest), id)
  end

  local function renew(id)
    if not redis.call('ZSCORE', held, id) then return false end
    redis.call('ZADD', held, text(latest), id)
    return true
  end

  local function keep()
    local px = text(math.max(math.ceil(lease / 1000) + 1000, floor))
    redis.call('PEXPIRE', held, px)
    if sum > 0 then redis.call('PEXPIRE', weights, px) end
  end

  if op == 'renew' then
    -- First, for it is done while memory is full, and after a first write all others are: nobody loses a permit by that.
    keep()
    for index = 1, count do
      answer[4 + index] = renew(ARGV[first + index]) and 1 or 0
    end
    return tell(redis.call('ZCARD', held) + sum)
  end

  local id = ARGV[first + 1]
  if op == 'release' then
    answer[5] = redis.call('ZREM', held, id)
    if answer[5] == 1 then forget_weight(id) end
    redis.call('HDEL', line, id)
    return tell(redis.call('ZCARD', held) + sum)
  end

  local live = redis.call('ZCARD', held) + sum
  if renew(id) then
    keep()
    return tell(live)
  end
  if weight == 0 then return tell(live) end
  if weight > capacity then
    answer[1] = -1
    return tell(live)
  end

  -- In front stand those who came earlier, but not one who may have less and finds no room although this one does.
  local came, front = now - waited, 0
  if op == 'wait' then
    local places = redis.call('HGETALL', line)
    local others = {}
    for index = 1, #places, 2 do
      local at, own, most, gone = struct.unpack('<i8i8i8i8', places[index + 1])
      if places[index] == id then
        -- The sooner one: the clock may have gone back.
        came = math.min(came, at)
      elseif gone <= now or gone > now + FORGOTTEN then
        redis.call('HDEL', line, places[index])
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
  if missing <= 0 then
    redis.call('ZADD', held, text(latest), id)
    if weight > 1 then
      redis.call('HSET', weights, id, text(weight - 1))
      sum = redis.call('HINCRBY', weights, 'sum', text(weight - 1))
    end
    if op == 'wait' then redis.call('HDEL', line, id) end
    keep()
    return tell(live + weight)
  end

  if op == 'wait' then
    redis.call('HSET', line, id, struct.pack('<i8i8i8i8', came, weight, capacity, now + FORGOTTEN))
    redis.call('PEXPIRE', line, text(2 * FORGOTTEN / 1000))
  end
  -- Until leases of so much weight have ended by themselves, soonest first.
  local last
  if sum == 0 then
    local place = math.min(missing, live) - 1
    last = redis.call('ZRANGE', held, place, place, 'WITHSCORES')[2]
  else
    local place, freed = 0, 0
    while freed < missing do
      local some = redis.call('ZRANGE', held, place, place + 99, 'WITHSCORES')
      if #some == 0 then break end
      for index = 1, #some, 2 do
        if freed < missing then freed, last = freed + weight_of(some[index]), some[index + 1] end
      end
      place = place + 100
    end
  end
  answer[1] = math.max(1, tonumber(last or 0) - now)
  return tell(live)
end

local answers, keys, args = {}, 0, 3
while keys < #KEYS do
  local count = tonumber(ARGV[args + 6])
  local done, answer = pcall(operate, KEYS[keys + 1], KEYS[keys + 2], KEYS[keys + 3], ARGV[args + 1],
    tonumber(ARGV[args + 2]), tonumber(ARGV[args + 3]), tonumber(ARGV[args + 4]), tonumber(ARGV[args + 5]), args + 6, count)
  if not done then answer = { -2, type(answer) == 'table' and answer.err or answer } end
  answers[#answers + 1] = answer
  keys, args = keys + 3, args + 6 + count
end
return answers
