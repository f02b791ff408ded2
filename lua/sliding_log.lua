-- sliding_log.lua: every charge with its time. A charge at t counts while now - t < window.
-- state    list, oldest first: a header, chunks, entries. A short log consists of entries.
--          entry   'l1', time of the charge in µs, number, sum of all charges up to this one, its own cost
--          chunk   'c1', then for each of up to 256 entries: time, number, sum within the chunk up to this one
--          header  'h1', rebased at, rebased to, forgotten; then for each chunk: time and number of its last entry, and
--                  the sum up to it
--          Sums and numbers only grow, and only differences of sums count. A binary search finds the entries that
--          count, and the entries that make room. A refund changes one chunk, or the entries behind it, and the header
-- rebase   a clock that went back by more than the window moves future entries to the new time. Entries up to the
--          number `rebased to` pass as if they were charged at `rebased at`, or at their own time if it is earlier
-- quota    limit | window in µs
-- expiry   one window after the newest charge, also after a refund of it: all quotas of this key have the same window.
--          The next charge drops passed entries. A denial does not. A chunk is dropped as a whole. Entries with numbers
--          below `forgotten` do not count, even if the clock goes back
-- place    the number of the entry

--# names
local limit, window
-- The largest number of entries in a chunk, and outside of chunks.
local MOST = 256
local LARGEST = 9007199254740992
-- The log that was read last. The entries that count sum up to `counted`. The oldest of them has the number `oldest`,
-- and is the entry `first_index` of the chunk `first_chunk` (0: behind all chunks).
local length, head, chunks, front, entries, rebased_at, rebased_to, forgotten
local at, rebase, newest, newest_time, number, last, counted, oldest, first_chunk, first_index
-- The entry and the chunk that were loaded last.
local seen_index, seen_text, loaded, loaded_text, loaded_count, loaded_base
local function corrupt()
  error({ err = 'CORRUPT' }, 0)
end
local function packed(time, number, sum, cost)
  return struct_pack('<c2i8i8i8i8', 'l1', time, number, sum, cost)
end
-- The parts of an entry: time, number, sum, cost.
local function parts(text)
  if not text or #text ~= 34 then corrupt() end
  local tag, time, number, sum, cost = struct_unpack('<c2i8i8i8i8', text)
  local fine = time >= 0 and time <= LARGEST and number >= 0 and number <= LARGEST and sum <= LARGEST
  if tag ~= 'l1' or not fine or cost < 1 or cost > sum then corrupt() end
  return time, number, sum, cost
end
-- The time at which an entry counts as charged.
local function charged(time, number)
  if number <= rebased_to and time > rebased_at then return rebased_at end
  return time
end
-- The entry at `index` behind the chunks, from 0.
local function entry(index)
  if index ~= seen_index then
    local place = front + index
    -- The index is counted from the nearer end.
    if place > length / 2 then place = place - length end
    seen_index, seen_text = index, redis.call('LINDEX', key, place)
  end
  local time, number, sum, cost = parts(seen_text)
  return charged(time, number), number, sum, cost
end
-- The last entry of a chunk, from 1, as stored in the header.
local function summary(chunk)
  local time, number, sum = struct_unpack('<i8i8i8', head, 3 + 24 * chunk)
  local fine = time >= 0 and time <= LARGEST and number >= 0 and number <= LARGEST
  if not fine or sum < 1 or sum > LARGEST then corrupt() end
  return charged(time, number), number, sum, time
end
-- The text of a chunk, the number of its entries, and the sum before them.
local function load(chunk)
  if chunk ~= loaded then
    local text = redis.call('LINDEX', key, chunk)
    local count = (#text - 2) / 24
    if string.sub(text, 1, 2) ~= 'c1' or count % 1 ~= 0 or count < 1 or count > MOST then corrupt() end
    local time, number, total = struct_unpack('<i8i8i8', text, 24 * count - 21)
    local _, own, sum, raw_time = summary(chunk)
    if time ~= raw_time or number ~= own or total < 1 or total > sum then corrupt() end
    loaded, loaded_text, loaded_count, loaded_base = chunk, text, count, sum - total
  end
  return loaded_text, loaded_count, loaded_base
end
-- An entry in a chunk, from 1.
local function record(chunk, index)
  local text, _, base = load(chunk)
  local time, number, sum = struct_unpack('<i8i8i8', text, 24 * index - 21)
  local before = index > 1 and struct_unpack('<i8', text, 24 * index - 29) or 0
  local fine = time >= 0 and time <= LARGEST and number >= 0 and number <= LARGEST
  if not fine or before < 0 or sum <= before or sum > LARGEST then corrupt() end
  return charged(time, number), number, base + sum, sum - before
end
-- The first index from `low` for which `found` holds, else `high`. The search starts near `low`.
local function first(low, high, found)
  local step = 1
  while low + step <= high and not found(low + step - 1) do low, step = low + step, step * 2 end
  high = math.min(high, low + step - 1)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if found(middle) then high = middle else low = middle + 1 end
  end
  return low
end
-- The first entry for which `found(time, number, sum)` holds: its chunk (0: behind all chunks), index, and parts.
local function seek(found)
  if chunks > 0 then
    local chunk = first(1, chunks + 1, function(chunk) return found(summary(chunk)) end)
    if chunk <= chunks then
      local _, count = load(chunk)
      local index = first(1, count, function(index) return found(record(chunk, index)) end)
      return chunk, index, record(chunk, index)
    end
  end
  local index = first(0, entries, function(index) return found(entry(index)) end)
  if index < entries then return 0, index, entry(index) end
end
-- The oldest entry that counts at `time`.
local function oldest_at(reference)
  return seek(function(time, number) return reference - time < window and number >= forgotten end)
end
-- The wait until enough entries have passed that at most `room` counts.
local function leaves(room)
  local _, _, time = seek(function(_, _, sum) return last - sum <= room end)
  local wait = math.min(time, at) - now + window
  if wait < 1 then corrupt() end
  return wait
end
-- Reads the log and ages it to now.
local function read()
  at, rebase, newest, number, last, counted, oldest = now, false, now, -1, 0, 0, nil
  head, chunks, front, entries, rebased_at, rebased_to, forgotten = nil, 0, 0, 0, 0, -1, 0
  seen_index, loaded = nil, nil
  length = redis.call('LLEN', key)
  if length == 0 then return end
  local text = redis.call('LINDEX', key, 0)
  if string.sub(text, 1, 2) == 'h1' then
    head, chunks = text, (#text - 26) / 24
    if chunks < 0 or chunks % 1 ~= 0 or chunks >= length then corrupt() end
    rebased_at, rebased_to, forgotten = struct_unpack('<i8i8i8', text, 3)
    if rebased_at < 0 or rebased_to < -1 or forgotten < 0 then corrupt() end
    front, text = 1 + chunks, nil
  end
  entries = length - front
  if entries > 0 then
    newest_time, number, last = entry(entries - 1)
  elseif chunks > 0 then
    newest_time, number, last = summary(chunks)
  else
    corrupt()
  end
  -- A future entry counts and moves to now. Entries that had passed when the newest one was added stay passed.
  local reference = math.max(now, newest_time)
  if now < newest_time then
    if newest_time - now <= window then at = newest_time else rebase = true end
  end
  newest = math.min(newest_time, at)
  if text then seen_index, seen_text = 0, text end
  local time, sum, cost
  first_chunk, first_index, time, oldest, sum, cost = oldest_at(reference)
  if oldest then
    counted = last - sum + cost
    if counted < 1 then corrupt() end
  end
end
-- The number of the next entry. It is never one of a rebased entry.
local function next_number()
  return math.max(number + 1, rebased_to + 1, at)
end
-- The header without its first `gone` chunks.
local function header(gone)
  local moved_to, up_to, from = rebased_at, rebased_to, forgotten
  if rebase then moved_to, up_to, from = at, number, oldest end
  local marks = struct_pack('<c2i8i8i8', 'h1', moved_to, up_to, from)
  return head and table.concat({ marks, string.sub(head, 27 + 24 * gone) }) or marks
end
local function set_head(text)
  if head then redis.call('LSET', key, 0, text) else redis.call('LPUSH', key, text) end
  head = text
end
-- The chunks for these entries, and their part of the header.
local function chunks_of(texts)
  local made, summaries = {}, {}
  for low = 1, #texts, MOST do
    local count = math.min(MOST, #texts - low + 1)
    local numbers, base = {}, nil
    local time, number, sum, cost
    for index = 1, count do
      time, number, sum, cost = parts(texts[low + index - 1])
      base = base or sum - cost
      numbers[3 * index - 2], numbers[3 * index - 1], numbers[3 * index] = time, number, sum - base
    end
    made[#made + 1] = struct_pack(table.concat({ '<c2', string.rep('i8', 3 * count) }), 'c1', unpack(numbers))
    summaries[#summaries + 1] = struct_pack('<i8i8i8', time, number, sum)
  end
  return made, table.concat(summaries)
end
-- Appends a charge, then drops passed entries. The append comes first, because it can fail while memory is full.
local function write(add, px)
  if add > 0 then
    local text = packed(at, next_number(), last + add, add)
    local gone, over = chunks, entries
    if oldest and first_chunk > 0 then
      gone, over = first_chunk - 1, 0
    elseif oldest then
      over = first_index
    end
    local marks = oldest and (gone < chunks or rebase or rebased_to >= oldest) and header(gone)
    local made, summaries
    if entries - over >= MOST - 1 then
      local texts = redis.call('LRANGE', key, front + over, -1)
      texts[#texts + 1] = text
      made, summaries = chunks_of(texts)
      marks = table.concat({ marks or struct_pack('<c2i8i8i8', 'h1', 0, -1, 0), summaries })
    end
    redis.call('RPUSH', key, text)
    if made then
      -- Writes a header in front of the remaining chunks, and the new chunks behind them.
      if gone < chunks then redis.call('LTRIM', key, 1 + gone, chunks) else redis.call('DEL', key) end
      redis.call('LPUSH', key, marks)
      redis.call('RPUSH', key, unpack(made))
    elseif gone + over > 0 then
      redis.call('LTRIM', key, (head and 1 or 0) + gone + over, -1)
      if marks then redis.call('LPUSH', key, marks) end
    elseif rebase then
      set_head(marks)
    end
  elseif rebase then
    if counted > 0 then set_head(header(0)) else redis.call('DEL', key) end
  end
  redis.call('PEXPIRE', key, px)
end
-- The part of the header for the first `count` chunks, with sums increased by `back`.
local function raised(count, back)
  local made = {}
  for low = 1, count, MOST do
    local some = math.min(MOST, count - low + 1)
    local format = table.concat({ '<', string.rep('i8', 3 * some) })
    local numbers = { struct_unpack(format, head, 3 + 24 * low) }
    numbers[3 * some + 1] = nil
    for each = 3, 3 * some, 3 do numbers[each] = numbers[each] + back end
    made[#made + 1] = struct_pack(format, unpack(numbers))
  end
  return table.concat(made)
end
-- Subtracts `back` from the entry at `index` behind the chunks, and from the sums of later entries. With `dry` it only
-- checks whether this is possible.
local function reduce_entries(index, back, gone, dry)
  local behind = front + index
  local texts = redis.call('LRANGE', key, behind, -1)
  for each, text in ipairs(texts) do
    local time, other, sum, cost = parts(text)
    if not dry then texts[each] = packed(time, other, sum - back, each == 1 and cost - back or cost) end
  end
  if dry then return end
  if gone then table.remove(texts, 1) end
  if behind == 0 or (#texts == 0 and index == 0 and chunks == 0) then
    redis.call('DEL', key)
  else
    redis.call('LTRIM', key, 0, behind - 1)
  end
  for low = 1, #texts, MOST do redis.call('RPUSH', key, unpack(texts, low, math.min(low + MOST - 1, #texts))) end
end
-- The same for an entry in a chunk. A chunk with few entries is merged with its neighbor, so that there are never many
-- chunks for few entries. The sums of earlier chunks are increased, instead of decreasing the sums of later ones.
local function reduce_chunk(chunk, index, back, gone, dry)
  local _, count = load(chunk)
  local low, high = chunk, chunk
  if count <= MOST / 4 then
    local beside = chunk < chunks and chunk + 1 or chunk - 1
    if beside > 0 and count + select(2, load(beside)) <= MOST / 2 then
      low, high = math.min(chunk, beside), math.max(chunk, beside)
    end
  end
  if dry then return end
  local numbers, size, before = {}, 0, 0
  for each = low, high do
    local text, count = load(each)
    local own = { struct_unpack(table.concat({ '<', string.rep('i8', 3 * count) }), text, 3) }
    for place = 1, count do
      if not gone or each ~= chunk or place ~= index then
        local sum = before + own[3 * place]
        if each == chunk and place >= index then sum = sum - back end
        numbers[size + 1], numbers[size + 2], numbers[size + 3] = own[3 * place - 2], own[3 * place - 1], sum
        size = size + 3
      end
    end
    before = numbers[size] or 0
  end
  local kept = ''
  if size > 0 then
    local _, _, sum = summary(high)
    kept = struct_pack('<i8i8i8', numbers[size - 2], numbers[size - 1], sum)
  end
  local marks = string.sub(header(0), 1, 26)
  marks = table.concat({ marks, raised(low - 1, back), kept, string.sub(head, 27 + 24 * high) })
  if size > 0 then
    redis.call('LSET', key, low, struct_pack(table.concat({ '<c2', string.rep('i8', size) }), 'c1', unpack(numbers)))
  end
  -- LREM removes a list item by its value, so a chunk to remove is emptied before.
  local empty = size == 0 and low or low < high and high
  if empty then
    redis.call('LSET', key, empty, '')
    redis.call('LREM', key, 1, '')
  end
  if #marks > 26 or entries > 0 then set_head(marks) else redis.call('DEL', key) end
end
-- Subtracts up to `cost` from the entry of this number. With `dry` it only checks whether this is possible.
local function give_back(wanted, cost, dry)
  if wanted < oldest then return end
  local chunk, index, _, found, _, own = seek(function(_, other) return other >= wanted end)
  if found ~= wanted then return end
  local back = math.min(own, cost)
  local gone, is_newest = back == own, wanted == number
  local left, from = newest, forgotten
  if gone and is_newest then
    -- The entry before it becomes the newest. Passed entries stay passed.
    if wanted > oldest then
      if index == (chunk > 0 and 1 or 0) then
        left = summary(chunk > 0 and chunk - 1 or chunks)
      elseif chunk > 0 then
        left = record(chunk, index - 1)
      else
        left = entry(index - 1)
      end
      left = math.min(left, at)
    end
    local _, _, _, counts = oldest_at(newest_time)
    from = counts
  end
  if not dry then forgotten = from end
  if chunk > 0 then
    reduce_chunk(chunk, index, back, gone, dry)
  else
    reduce_entries(index, back, gone, dry)
    if not dry and gone and is_newest and chunks > 0 then set_head(header(0)) end
  end
  if not dry then counted, newest = counted - back, left end
end
--@why
--# quota
limit, window = struct_unpack('<i8i8', quota, 2)
--# load
raw = nil
--# view
local add, note, fault, keep = 0, false, nil, 0
do
  local fine, problem = pcall(read)
  if fine then note, raw, keep = rebase, oldest ~= nil, newest - now + window else fault = why(problem) end
end
--# wait
if counted + cost > limit then
  local fine, found = pcall(leaves, limit - cost)
  if fine then retry = found else retry, note, fault = 1, false, why(found) end
end
--# charge
add, place = cost, next_number()
counted, newest = counted + add, at
--# penalize
add = math.min(cost, math.max(0, 2 * limit - counted))
if add > 0 then counted, newest = counted + add, at end
--# can_refund
give_back(tonumber(extra), cost, true)
--# refund
give_back(place, cost, false)
--# snapshot
remaining = math.max(0, limit - counted)
-- In a corrupt log the newest entry may have ended although something is counted.
reset = counted > 0 and math.max(0, newest - now + window) or 0
--# pack
--# store
do
  local px = string.format('%.0f', math.max(math.ceil(math.max(keep, reset) / 1000) + 1000, floor))
  local fine, problem = pcall(write, add, px)
  if not fine then fault = why(problem) end
end
