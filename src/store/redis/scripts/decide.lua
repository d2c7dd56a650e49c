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
--            {4, granted, {{remaining, reset_ms, wait_ms or -1, owed, ...}, ...}} spent
--
-- Questions are answered in order and see what earlier ones spent. Everything is read before anything is written, so that
-- an error of any kind leaves all as it was. The arithmetic is that of limit/spend.rs, formula by formula; differences
-- are found by tests/differential.
--
-- Numbers lie flat in lists rather than in a table each, and loops count: this runs while all of Redis waits.

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

local faults = {}

-- Why a key where MGET found nothing cannot be used, or false: MGET finds nothing in a wrong type either.
local function fault(key)
  if faults[key] == nil then
    faults[key] = type(redis.pcall('GET', KEYS[key])) == 'table' and KEYS[key] .. ' is no string'
  end
  return faults[key]
end

-- Buckets: flat lists, five numbers to an entry: algorithm, duration, mark, used, previous. -----------------------------

-- By the index of their key, as they stand after the questions answered so far: a list, or why there is none.
local buckets = {}
-- Which of them have changed, and which question was the last to ask for them.
local changed, asked_by = {}, {}

local function whole(x)
  return x >= 0 and x <= MOST and x % 1 == 0 -- false for NaN
end

-- false for anything that no sidecar wrote
local function read_bucket(bytes)
  if bytes:byte(1) ~= VERSION or (#bytes - 1) % STRIDE ~= 0 then return false end
  local bucket, i = {}, 0
  for at = 2, #bytes, STRIDE do
    local algorithm, duration, mark, used, previous = struct.unpack(PACKED, bytes, at)
    local readable = algorithm <= TOKEN and whole(duration) and whole(mark) and whole(used) and whole(previous)
      and duration >= 1 and mark + 2 * duration <= MOST
      and (algorithm ~= SLIDING or (used + previous) * duration <= MOST)
    if not readable then return false end
    bucket[i + 1], bucket[i + 2], bucket[i + 3], bucket[i + 4], bucket[i + 5] = algorithm, duration, mark, used, previous
    i = i + 5
  end
  return bucket
end

local function load_bucket(key)
  local bucket
  if found[key] then
    bucket = read_bucket(found[key]) or KEYS[key] .. ' is no bucket'
  else
    bucket = fault(key) or {}
  end
  buckets[key] = bucket
  return bucket
end

local function ends(bucket, i)
  return bucket[i + 2] + bucket[i + 1] * (bucket[i] == SLIDING and 2 or 1)
end

local function write_bucket(key, bucket)
  local packed, last = string.char(VERSION), now
  for i = 1, #bucket, 5 do
    packed = packed .. struct.pack(PACKED, unpack(bucket, i, i + 4))
    last = max(last, ends(bucket, i))
  end
  redis.call('SET', KEYS[key], packed, 'PX', last - now + SLACK_MS)
end

-- Where the window's entry begins; where it is to be added if there is none.
local function position(bucket, algorithm, duration)
  for i = 1, #bucket, 5 do
    if bucket[i] == algorithm and bucket[i + 1] == duration then return i end
  end
  return #bucket + 1
end

-- Drops the entries that have ended, save those of the asker's windows.
local function prune(bucket, asked)
  local size, kept = #bucket, 0
  for i = 1, size, 5 do
    local stays = ends(bucket, i) > now
    for w = 3, stays and 0 or #asked, 2 do
      stays = stays or (bucket[i] == asked[2] and bucket[i + 1] == asked[w + 1])
    end
    if stays then
      for field = 0, kept < i - 1 and 4 or -1 do bucket[kept + 1 + field] = bucket[i + field] end
      kept = kept + 5
    end
  end
  for i = size, kept + 1, -1 do bucket[i] = nil end
end

-- Arithmetic ------------------------------------------------------------------------------------------------------------

-- floor(a / b) is exact throughout: the rounding of a quotient can only hide a fraction where a >= 2^53.

-- The window's mark, used and previous at `now`, before anything is spent.
local function advanced(bucket, i, algorithm, limit, duration)
  local mark, used, previous = bucket[i + 2], bucket[i + 3], bucket[i + 4]
  if algorithm == TOKEN then
    if not mark then return now, 0, 0 end
    used = min(used, limit * duration) - min(max(now - mark, 0), duration) * limit
    return max(mark, now), max(used, 0), previous
  end
  local start = now - now % duration
  if not mark then return start, 0, 0 end
  if mark >= start then return mark, used, previous end
  if algorithm == SLIDING and mark + duration == start then return start, 0, used end
  return start, 0, 0
end

local function free(algorithm, limit, duration, mark, used, previous)
  if algorithm == FIXED then return max(limit - used, 0) end
  if algorithm == SLIDING then
    used = previous * (duration - max(now - mark, 0)) + used * duration
  end
  return max(limit * duration - used, 0)
end

local function reset(algorithm, limit, duration, mark, used, previous)
  if algorithm == FIXED then return mark + duration end
  if algorithm == TOKEN then return used > 0 and mark + floor((used + limit - 1) / limit) or now end
  if used > 0 then return mark + 2 * duration end
  return previous > 0 and mark + duration or now
end

-- When a window that lacks so many units has room for `cost`.
local function room_at(algorithm, limit, duration, mark, used, previous, cost, lacking)
  if algorithm == FIXED then return mark + duration end
  if algorithm == TOKEN then return mark + floor((lacking + limit - 1) / limit) end
  local most = limit - cost
  if used <= most then return mark + duration - floor((most - used) * duration / previous) end
  return mark + 2 * duration - floor(most * duration / used)
end

-- Questions -------------------------------------------------------------------------------------------------------------

local function documents(asks)
  local all = {}
  for a = 1, #asks do
    local shown, texts = asks[a][1], {}
    for i = 1, #shown do texts[i] = found[beliefs[shown[i]][1]] end
    all[a] = texts
  end
  return all
end

-- The answer to a question that may not spend, or nil.
local function hindrance(index, asks)
  local stale, expired, refused = false, false, false
  for a = 1, #asks do
    local shown, member, not_after, wanted = unpack(asks[a])
    for i = 1, #shown do
      local key, believed = unpack(beliefs[shown[i]])
      local wrong = not found[key] and fault(key)
      if wrong then return { BROKEN, wrong } end
      if found[key] ~= (ARGV[believed] or believed) then stale = true end
    end
    if member then
      local is = redis.pcall('SISMEMBER', KEYS[member[1]], member[2])
      if type(is) == 'table' then return { BROKEN, KEYS[member[1]] .. ' is no set' } end
      if is == 0 then refused = true end
    end
    if not_after and now >= not_after then expired = true end
    for i = 1, #wanted do
      local key = wanted[i][1]
      local bucket = buckets[key] or load_bucket(key)
      if type(bucket) == 'string' then return { BROKEN, bucket } end
      -- It could not be spent from as a whole.
      if asked_by[key] == index then return { BROKEN, KEYS[key] .. ' is asked for twice in one question' } end
      asked_by[key] = index
    end
  end
  if stale then return { STALE, documents(asks) } end
  if expired then return { EXPIRED } end
  return refused and { REFUSED }
end

-- How many of `n` fit into every window of one bucket.
local function fitting(asked, cost, n)
  local bucket, algorithm = buckets[asked[1]], asked[2]
  for w = 3, #asked, 2 do
    local limit, duration = asked[w], asked[w + 1]
    if cost > limit then return 0 end
    local unit = algorithm == FIXED and 1 or duration
    local i = position(bucket, algorithm, duration)
    local room = free(algorithm, limit, duration, advanced(bucket, i, algorithm, limit, duration))
    n = min(n, floor(room / (cost * unit)))
  end
  return n
end

-- Takes `spent` from every window of one bucket and says where they stand.
local function settle(asked, cost, spent)
  local key, algorithm, flat = asked[1], asked[2], {}
  local bucket = buckets[key]
  for w = 3, #asked, 2 do
    local limit, duration = asked[w], asked[w + 1]
    local unit = algorithm == FIXED and 1 or duration
    local i = position(bucket, algorithm, duration)
    local mark, used, previous = advanced(bucket, i, algorithm, limit, duration)
    if spent > 0 then
      used = used + spent * (algorithm == TOKEN and duration or 1)
      bucket[i], bucket[i + 1], bucket[i + 2], bucket[i + 3], bucket[i + 4] = algorithm, duration, mark, used, previous
    end
    local room, at = free(algorithm, limit, duration, mark, used, previous), #flat
    local lacking, wait = cost * unit - room, 0
    if cost > limit then
      wait = -1
    elseif cost > 0 and lacking > 0 then
      wait = room_at(algorithm, limit, duration, mark, used, previous, cost, lacking) - now
    end
    flat[at + 1] = floor(room / unit)
    flat[at + 2] = reset(algorithm, limit, duration, mark, used, previous)
    flat[at + 3] = wait
    flat[at + 4] = algorithm == TOKEN and used or 0
  end
  if spent > 0 then
    prune(bucket, asked)
    changed[key] = true
  end
  return flat
end

local function spend(cost, n, asks)
  local granted = n
  for a = 1, cost > 0 and #asks or 0 do
    local wanted = asks[a][4]
    for i = 1, #wanted do granted = fitting(wanted[i], cost, granted) end
  end
  local standing = {}
  for a = 1, #asks do
    local wanted = asks[a][4]
    for i = 1, #wanted do standing[#standing + 1] = settle(wanted[i], cost, cost * granted) end
  end
  return { SPENT, granted, standing }
end

local answers = {}
for i = 1, #questions do
  local cost, n, asks = unpack(questions[i])
  answers[i] = hindrance(i, asks) or spend(cost, n, asks)
end
for key in pairs(changed) do
  write_bucket(key, buckets[key])
end
return cmsgpack.pack({ now, answers })
