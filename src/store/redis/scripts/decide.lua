-- Answers questions: confirms the documents that each was decided on, then spends from its buckets, all or nothing.
--
-- KEYS     every key that a question touches, strings (documents and buckets) before sets
-- ARGV[1]  MessagePack: {number of strings, beliefs, questions}
--            belief    {key, true: never seen | false: absent | which of ARGV is its text}
--            question  {cost, n, {ask, ...}}
--            ask       {{belief, ...}, false | {key, member}, false | not_after_ms, {bucket, ...}}
--            bucket    {key, algorithm, limit, duration_ms, limit, duration_ms, ...}
--          where a key or a belief is its index
-- ARGV[2…] the texts of documents
-- returns  MessagePack: {now_ms, {answer, ...}}, an answer one of
--            {0, text} broken, {1, {{document | false, ...}, ...}} stale, {2} expired, {3} refused,
--            {4, granted, {{remaining, reset_ms, wait_ms or -1, ...}, ...}} spent
--
-- Questions are answered in order and see what earlier ones spent. Everything is read before anything is written, so that
-- an error of any kind leaves all as it was. The arithmetic is that of limit/spend.rs, function by function; differences
-- are found by tests/differential.rs.

local BROKEN, STALE, EXPIRED, REFUSED, SPENT = 0, 1, 2, 3, 4
local FIXED, SLIDING, TOKEN = 0, 1, 2
local VERSION, STRIDE, PACKED = 1, 33, '<Bdddd'
local MOST = 9007199254740992 -- 2^53: beyond it a number has gaps
local SLACK_MS = 60000 -- a bucket outlives its end by this much, for a clock that goes back
local floor, max, min = math.floor, math.max, math.min

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + floor(time[2] / 1000)
end

local now = clock()
local count, beliefs, questions = unpack(cmsgpack.unpack(ARGV[1]))
local found = count > 0 and redis.call('MGET', unpack(KEYS, 1, count)) or {}

-- Why a key cannot be used, by its index; false where it can. MGET says nil for a wrong type as well as for nothing.
local faults = {}

local function fault(key)
  local known = faults[key]
  if known == nil then
    known = false
    if not found[key] and type(redis.pcall('GET', KEYS[key])) == 'table' then
      known = KEYS[key] .. ' is no string'
    end
    faults[key] = known
  end
  return known
end

-- Buckets ---------------------------------------------------------------------------------------------------------------

local function whole(x)
  return x >= 0 and x <= MOST and x % 1 == 0 -- false for NaN
end

local function read_entry(bytes, at)
  local algorithm, duration, mark, used, previous = struct.unpack(PACKED, bytes, at)
  local readable = algorithm <= TOKEN and whole(duration) and whole(mark) and whole(used) and whole(previous)
    and duration >= 1 and mark + 2 * duration <= MOST
    and (algorithm ~= SLIDING or (used + previous) * duration <= MOST)
  return readable and { algorithm = algorithm, duration = duration, mark = mark, used = used, previous = previous }
end

local function read_bucket(bytes)
  local bucket = {}
  if not bytes then return bucket end
  if bytes:byte(1) ~= VERSION or (#bytes - 1) % STRIDE ~= 0 then return false end
  for at = 2, #bytes, STRIDE do
    local entry = read_entry(bytes, at)
    if not entry then return false end
    bucket[#bucket + 1] = entry
  end
  return bucket
end

-- Buckets by the index of their key, as they stand after the questions answered so far, and which of them have changed.
local buckets, changed = {}, {}

-- A bucket that can be spent from, or nil and why not.
local function bucket_of(key)
  local bucket = buckets[key]
  if bucket == nil then
    local wrong = fault(key)
    if wrong then return nil, wrong end
    bucket = read_bucket(found[key])
    buckets[key] = bucket
  end
  if not bucket then return nil, KEYS[key] .. ' is no bucket' end
  return bucket
end

local function ends(entry)
  return entry.mark + entry.duration * (entry.algorithm == SLIDING and 2 or 1)
end

local function write_bucket(key, bucket)
  local packed, last = { string.char(VERSION) }, 0
  for i = 1, #bucket do
    local entry = bucket[i]
    packed[i + 1] = struct.pack(PACKED, entry.algorithm, entry.duration, entry.mark, entry.used, entry.previous)
    last = max(last, ends(entry))
  end
  redis.call('SET', KEYS[key], table.concat(packed), 'PX', max(last - now, 0) + SLACK_MS)
end

-- Arithmetic ------------------------------------------------------------------------------------------------------------

-- Rounded down, and exact: the rounding of a quotient can only hide a fraction where a >= 2^53.
local function div(a, b)
  return floor(a / b)
end

local function position(bucket, algorithm, duration)
  for i = 1, #bucket do
    if bucket[i].algorithm == algorithm and bucket[i].duration == duration then return i end
  end
end

-- The window's state at `now`, before anything is spent.
local function advanced(old, algorithm, limit, duration)
  local mark, used, previous = now, 0, 0
  if algorithm == TOKEN then
    if old then
      mark = max(old.mark, now)
      used = max(min(old.used, limit * duration) - min(max(now - old.mark, 0), duration) * limit, 0)
      previous = old.previous
    end
  else
    mark = now - now % duration
    if old and old.mark >= mark then
      mark, used, previous = old.mark, old.used, old.previous
    elseif old and algorithm == SLIDING and old.mark + duration == mark then
      previous = old.used
    end
  end
  return { algorithm = algorithm, duration = duration, mark = mark, used = used, previous = previous }
end

local function unit(entry)
  return entry.algorithm == FIXED and 1 or entry.duration
end

local function free(entry, limit)
  local duration, taken = entry.duration, entry.used
  if entry.algorithm == FIXED then return max(limit - taken, 0) end
  if entry.algorithm == SLIDING then
    taken = entry.previous * (duration - max(now - entry.mark, 0)) + entry.used * duration
  end
  return max(limit * duration - taken, 0)
end

local function reset(entry, limit)
  local algorithm, mark, duration = entry.algorithm, entry.mark, entry.duration
  if algorithm == FIXED then return mark + duration end
  if algorithm == TOKEN then
    return entry.used > 0 and mark + div(entry.used + limit - 1, limit) or now
  end
  if entry.used > 0 then return mark + 2 * duration end
  return entry.previous > 0 and mark + duration or now
end

-- In how many milliseconds `cost` fits if nobody else spends; -1 for never.
local function wait(entry, limit, cost)
  if cost == 0 then return 0 end
  if cost > limit then return -1 end
  local lacking = cost * unit(entry) - free(entry, limit)
  if lacking <= 0 then return 0 end
  local mark, duration, most = entry.mark, entry.duration, limit - cost
  if entry.algorithm == FIXED then return mark + duration - now end
  if entry.algorithm == TOKEN then return mark + div(lacking + limit - 1, limit) - now end
  if entry.used <= most then
    return mark + duration - div((most - entry.used) * duration, entry.previous) - now
  end
  return mark + 2 * duration - div(most * duration, entry.used) - now
end

-- Questions -------------------------------------------------------------------------------------------------------------

-- What keeps a question from being answered, or nil. A bucket that is asked for twice could not be spent from as a whole.
local function broken(asks)
  local seen = {}
  for _, ask in ipairs(asks) do
    for _, belief in ipairs(ask[1]) do
      local wrong = fault(beliefs[belief][1])
      if wrong then return wrong end
    end
    local member = ask[2]
    if member then
      local is = redis.pcall('SISMEMBER', KEYS[member[1]], member[2])
      if type(is) == 'table' then return KEYS[member[1]] .. ' is no set' end
      member[3] = is == 1
    end
    for _, asked in ipairs(ask[4]) do
      local bucket, wrong = bucket_of(asked[1])
      if not bucket then return wrong end
      if seen[asked[1]] then return KEYS[asked[1]] .. ' is asked for twice in one question' end
      seen[asked[1]] = true
    end
  end
end

local function stale(asks)
  for _, ask in ipairs(asks) do
    for _, belief in ipairs(ask[1]) do
      local key, believed = unpack(beliefs[belief])
      if found[key] ~= (ARGV[believed] or believed) then return true end
    end
  end
end

local function documents(asks)
  local all = {}
  for i, ask in ipairs(asks) do
    all[i] = {}
    for j, belief in ipairs(ask[1]) do
      all[i][j] = found[beliefs[belief][1]]
    end
  end
  return all
end

local function expired(asks)
  for _, ask in ipairs(asks) do
    if ask[3] and now >= ask[3] then return true end
  end
end

local function refused(asks)
  for _, ask in ipairs(asks) do
    if ask[2] and not ask[2][3] then return true end
  end
end

local function prune(bucket, asked, algorithm)
  local kept = 0
  for i = 1, #bucket do
    local entry, named = bucket[i], false
    for at = 4, #asked, 2 do
      named = named or (entry.algorithm == algorithm and entry.duration == asked[at])
    end
    bucket[i] = nil
    if named or ends(entry) > now then
      kept = kept + 1
      bucket[kept] = entry
    end
  end
end

-- Takes `amount` from every window of one bucket.
local function take(asked, windows, amount)
  local bucket, algorithm = buckets[asked[1]], asked[2]
  for _, window in ipairs(windows) do
    local entry = window.entry
    entry.used = entry.used + amount * (algorithm == TOKEN and entry.duration or 1)
    bucket[window.at or #bucket + 1] = entry
  end
  prune(bucket, asked, algorithm)
  changed[asked[1]] = true
end

local function spend(cost, n, asks)
  local granted, plan = n, {}
  for _, ask in ipairs(asks) do
    for _, asked in ipairs(ask[4]) do
      local bucket, windows = buckets[asked[1]], { asked = asked }
      for i = 3, #asked, 2 do
        local limit, duration = asked[i], asked[i + 1]
        local at = position(bucket, asked[2], duration)
        local entry = advanced(bucket[at], asked[2], limit, duration)
        if cost > limit then
          granted = 0
        elseif cost > 0 then
          granted = min(granted, div(free(entry, limit), cost * unit(entry)))
        end
        windows[#windows + 1] = { at = at, entry = entry, limit = limit }
      end
      plan[#plan + 1] = windows
    end
  end

  local standing = {}
  for i, windows in ipairs(plan) do
    if cost * granted > 0 then take(windows.asked, windows, cost * granted) end
    local flat = {}
    for _, window in ipairs(windows) do
      local entry, limit, at = window.entry, window.limit, #flat
      flat[at + 1] = div(free(entry, limit), unit(entry))
      flat[at + 2] = reset(entry, limit)
      flat[at + 3] = wait(entry, limit, cost)
    end
    standing[i] = flat
  end
  return { SPENT, granted, standing }
end

local function answer(cost, n, asks)
  local wrong = broken(asks)
  if wrong then return { BROKEN, wrong } end
  if stale(asks) then return { STALE, documents(asks) } end
  if expired(asks) then return { EXPIRED } end
  if refused(asks) then return { REFUSED } end
  return spend(cost, n, asks)
end

local answers = {}
for i, question in ipairs(questions) do
  answers[i] = answer(unpack(question))
end
for key in pairs(changed) do
  write_bucket(key, buckets[key])
end
return cmsgpack.pack({ now, answers })
