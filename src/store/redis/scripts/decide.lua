-- Answers questions: confirms the documents that each was decided on, then spends from its buckets, all or nothing.
--
-- KEYS     documents that are believed to hold a text; buckets; documents that are believed absent; documents never seen;
--          sets. Only a document that is believed in two ways stands twice
-- ARGV[1]  MessagePack, one element behind the other, or all in one list: how many texts, buckets, absent documents, unseen ones, questions; of each question
--            cost, n, how many documents, the index of each's key, not_after_ms or false,
--            how many members, of each the index of its set and the member,
--            how many buckets, of each the index of its key, algorithm (3 more where it only observes), how many windows, and
--            of each limit, duration_ms
-- ARGV[2…] the texts, in the order of their documents
-- returns  MessagePack, one flat list: now_ms; then of each question
--            0, text: broken
--            1, then each document or false: stale
--            2: expired
--            3: refused
--            4, granted, then of each bucket, where it only observes, how many it had room for, and of each window remaining,
--            reset_ms, wait_ms or -1, owed: spent
--
-- Questions are answered in order and see what earlier ones spent. Everything is read before anything is written, so that
-- an error of any kind leaves all as it was. The arithmetic is that of limit/spend.rs, formula by formula; differences
-- are found by tests/differential.
--
-- This runs while all of Redis waits, and most of its time would be spent on making functions and growing tables. So numbers
-- lie flat in lists rather than in a table each; what the commonest question needs stands in the loop at the end; and the
-- functions for all others are handed what they need, since one that captured it would cost as much as a look-up for
-- each name, used or not.

local FIXED, SPENT, VERSION, STRIDE = 0, 4, 1, 33
local MOST = 9007199254740992 -- 2^53: beyond it a number has gaps
local SLACK_MS = 60000 -- a bucket outlives its end by at least this much, for a clock that goes back
local KEYS, ARGV, call, floor, from_bytes, to_bytes = KEYS, ARGV, redis.call, math.floor, struct.unpack, struct.pack

local time = call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)

-- One behind the other they fill a table that has room for all at once. In a list come more than Lua's stack may hold.
local asked = { cmsgpack.unpack(ARGV[1]) }
if type(asked[1]) == 'table' then asked = asked[1] end
local texts, strings, absent, unseen = asked[1], asked[1] + asked[2], asked[3], asked[4]

-- By the index of their key: documents that are believed to hold a text, and buckets as they stand after the questions
-- answered so far.
local found = strings > 0 and call('MGET', unpack(KEYS, 1, strings)) or {}

-- Whether every document is as believed and every bucket a string: MGET finds nothing in another type either.
local undoubted = unseen == 0
for i = 1, texts do
  if found[i] ~= ARGV[i + 1] then undoubted = false end
end
for i = texts + 1, strings do
  if not found[i] and call('EXISTS', KEYS[i]) > 0 then undoubted = false end
end
if absent > 0 and call('EXISTS', unpack(KEYS, strings + 1, strings + absent)) > 0 then undoubted = false end

-- What is returned, and how long it is so far. There is room for one answer from the beginning: a table that grows is copied.
local answers, size = { now, nil, nil, nil, nil, nil, nil }, 1

-- By index the buckets that have changed: when they end; false where the expiry that stands is the right one still. That is
-- on whole minutes, one to two after the end, so that it seldom moves, and what stands can be written in place.
local changed = {}

-- The bucket, which ended at `ended` and now ends at `ends`, is to be written.
local function keep(found, changed, key, packed, ended, ends)
  local held = found[key]
  if not held or #held ~= #packed or ended ~= ends and floor(ended / SLACK_MS) ~= floor(ends / SLACK_MS) then
    changed[key] = ends
  elseif changed[key] == nil then
    changed[key] = false
  end
  found[key] = packed
end

-- Several windows -------------------------------------------------------------------------------------------------------

-- Spends from buckets that are absent or hold just the fixed windows that are asked for; the first is asked for at `at`.
-- Returns where the next question begins, and how long the answers are then; nil, and nothing done, if a bucket is not like that.
local function spend_from_several(keep, now, asked, found, changed, answers, size, cost, n, count, at)
  local FIXED, SPENT, VERSION, STRIDE, PACKED, MOST = 0, 4, 1, 33, '<Bdddd', 9007199254740992
  local floor, from_bytes, to_bytes = math.floor, struct.unpack, struct.pack
  -- Of each window mark and used as they stand now; by the bucket's index when it was to end.
  local state, w, ended = { 0, 0, 0, 0, 0, 0 }, 0, {}
  local granted, first = n, at
  for _ = 1, count do
    local key, windows = asked[at], asked[at + 2]
    local held, last = found[key], 0
    if asked[at + 1] ~= FIXED or ended[key] then return nil end
    if held and (#held ~= 1 + windows * STRIDE or held:byte() ~= VERSION) then return nil end
    at = at + 3
    for position = 2, windows * STRIDE, STRIDE do
      local limit, duration = asked[at], asked[at + 1]
      local mark, used = now - now % duration, 0
      if held then
        local algorithm, long, stored, previous
        algorithm, long, stored, used, previous = from_bytes(PACKED, held, position)
        -- Written so that NaN is not readable either.
        local readable = algorithm == FIXED and long == duration and previous == 0
          and stored >= 0 and stored <= mark and stored % 1 == 0 and used >= 0 and used <= MOST and used % 1 == 0
        if not readable then return nil end
        if stored < mark then used = 0 end
        if stored + duration > last then last = stored + duration end
      end
      local fits = used < limit and floor((limit - used) / cost) or 0
      if fits < granted then granted = fits end
      state[w + 1], state[w + 2] = mark, used
      w, at = w + 2, at + 2
    end
    ended[key] = last
  end
  answers[size + 1], answers[size + 2] = SPENT, granted
  size, at, w = size + 2, first, 0
  for _ = 1, count do
    local key, windows = asked[at], asked[at + 2]
    local packed, ends = '\1', 0
    at = at + 3
    for _ = 1, windows do
      local limit, duration = asked[at], asked[at + 1]
      local mark, used = state[w + 1], state[w + 2] + cost * granted
      local room, ending, wait = used < limit and limit - used or 0, mark + duration, 0
      if cost > limit then
        wait = -1
      elseif cost > room then
        wait = ending - now
      end
      answers[size + 1], answers[size + 2], answers[size + 3], answers[size + 4] = room, ending, wait, 0
      if granted > 0 then packed = packed .. to_bytes(PACKED, FIXED, duration, mark, used, 0) end
      if ending > ends then ends = ending end
      size, at, w = size + 4, at + 2, w + 2
    end
    if granted > 0 then keep(found, changed, key, packed, ended[key], ends) end
  end
  return at, size
end

-- The long way ----------------------------------------------------------------------------------------------------------

-- Returns a function that answers the question at a position, whatever it is; it is given how long the answers are so far, and
-- returns where the next question begins and how long they are then. Here a bucket is a list of five numbers to an entry:
-- algorithm, duration, mark, used, previous.
local function careful(keep, now, asked, found, changed, answers)
  local BROKEN, STALE, EXPIRED, REFUSED, SPENT = 0, 1, 2, 3, 4
  local FIXED, SLIDING, TOKEN = 0, 1, 2
  local OBSERVES = 3 -- added to a bucket's algorithm: it denies nobody, and counts what it had room for
  local VERSION, STRIDE, PACKED, MOST = 1, 33, '<Bdddd', 9007199254740992
  local KEYS, ARGV, from_bytes, to_bytes = KEYS, ARGV, struct.unpack, struct.pack
  local floor, max, min = math.floor, math.max, math.min
  local texts, believed_absent_to, size = asked[1], asked[1] + asked[2] + asked[3], 0

  -- What stands at a key, or false; and why it is no string.
  local function string_at(key)
    if found[key] then return found[key] end
    local held = redis.pcall('GET', KEYS[key])
    if type(held) == 'table' then return false, KEYS[key] .. ' is no string' end
    return held
  end

  local function whole(x)
    return x >= 0 and x <= MOST and x % 1 == 0 -- false for NaN
  end

  -- A list, or why there is none: nobody else but a sidecar writes buckets.
  local function read_bucket(key)
    local bytes, wrong = string_at(key)
    local bucket, i = {}, 0
    if not bytes then return wrong or bucket end
    if bytes:byte() ~= VERSION or (#bytes - 1) % STRIDE ~= 0 then return KEYS[key] .. ' is no bucket' end
    for at = 2, #bytes, STRIDE do
      local algorithm, duration, mark, used, previous = from_bytes(PACKED, bytes, at)
      -- Of an algorithm that only a later release knows, what matters here is when it ends.
      local readable = whole(duration) and whole(mark) and duration >= 1 and mark + 2 * duration <= MOST
        and (algorithm > TOKEN or whole(used) and whole(previous)
          and (algorithm ~= SLIDING or (used + previous) * duration <= MOST))
      if not readable then return KEYS[key] .. ' is no bucket' end
      bucket[i + 1], bucket[i + 2], bucket[i + 3], bucket[i + 4], bucket[i + 5] = algorithm, duration, mark, used, previous
      i = i + 5
    end
    return bucket
  end

  local function ends(bucket, i)
    local long = bucket[i] == SLIDING or bucket[i] > TOKEN
    return bucket[i + 2] + bucket[i + 1] * (long and 2 or 1)
  end

  -- Whether the store's clock has gone back so far that it begins anew. By less it may differ between two nodes of which one took
  -- over from the other.
  local function is_ahead(mark, duration)
    return mark > now + duration
  end

  local function last_end(bucket)
    local last = 0
    for i = 1, #bucket, 5 do last = max(last, ends(bucket, i)) end
    return last
  end

  local function write_bucket(key, bucket, ended)
    local packed = string.char(VERSION)
    for i = 1, #bucket, 5 do
      packed = packed .. to_bytes(PACKED, unpack(bucket, i, i + 4))
    end
    keep(found, changed, key, packed, ended, last_end(bucket))
  end

  -- Where the window's entry begins; where it is to be added if there is none.
  local function position(bucket, algorithm, duration)
    for i = 1, #bucket, 5 do
      if bucket[i] == algorithm and bucket[i + 1] == duration then return i end
    end
    return #bucket + 1
  end

  -- Drops the entries that count no more, save those of the asker's windows, which lie at `from` to `to`.
  local function prune(bucket, algorithm, from, to)
    local length, kept = #bucket, 0
    for i = 1, length, 5 do
      -- What a later release means by its mark is not known here.
      local stays = ends(bucket, i) > now and (bucket[i] > TOKEN or not is_ahead(bucket[i + 2], bucket[i + 1]))
      for at = from, stays and 0 or to, 2 do
        stays = stays or (bucket[i] == algorithm and bucket[i + 1] == asked[at + 1])
      end
      if stays then
        for field = 0, kept < i - 1 and 4 or -1 do bucket[kept + 1 + field] = bucket[i + field] end
        kept = kept + 5
      end
    end
    for i = length, kept + 1, -1 do bucket[i] = nil end
  end

  -- floor(a / b) is exact throughout: the rounding of a quotient can only hide a fraction where a >= 2^53.

  -- The window's mark, used and previous at `now`, before anything is spent.
  local function advanced(bucket, i, algorithm, limit, duration)
    local mark, used, previous = bucket[i + 2], bucket[i + 3], bucket[i + 4]
    if mark and is_ahead(mark, duration) then mark = nil end
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

  -- How many of `n` fit into every window of a bucket that is asked for at `at`.
  local function fitting(bucket, at, cost, n)
    local algorithm, last = asked[at + 1] % OBSERVES, at + 2 + 2 * asked[at + 2]
    for w = at + 3, last, 2 do
      local limit, duration = asked[w], asked[w + 1]
      if cost > limit then return 0 end
      local unit = algorithm == FIXED and 1 or duration
      local i = position(bucket, algorithm, duration)
      local room = free(algorithm, limit, duration, advanced(bucket, i, algorithm, limit, duration))
      n = min(n, floor(room / (cost * unit)))
    end
    return n
  end

  -- Takes `spent` from every window of a bucket that is asked for at `at`, and says where they stand.
  local function settle(bucket, at, cost, spent)
    local algorithm, last, ended = asked[at + 1] % OBSERVES, at + 2 + 2 * asked[at + 2], last_end(bucket)
    for w = at + 3, last, 2 do
      local limit, duration = asked[w], asked[w + 1]
      local unit = algorithm == FIXED and 1 or duration
      local i = position(bucket, algorithm, duration)
      local mark, used, previous = advanced(bucket, i, algorithm, limit, duration)
      if spent > 0 then
        used = used + spent * (algorithm == TOKEN and duration or 1)
        bucket[i], bucket[i + 1], bucket[i + 2], bucket[i + 3], bucket[i + 4] = algorithm, duration, mark, used, previous
      end
      local room = free(algorithm, limit, duration, mark, used, previous)
      local lacking, wait = cost * unit - room, 0
      if cost > limit then
        wait = -1
      elseif cost > 0 and lacking > 0 then
        wait = room_at(algorithm, limit, duration, mark, used, previous, cost, lacking) - now
      end
      answers[size + 1] = floor(room / unit)
      answers[size + 2] = reset(algorithm, limit, duration, mark, used, previous)
      answers[size + 3] = wait
      answers[size + 4] = algorithm == TOKEN and used or 0
      size = size + 4
    end
    if spent > 0 then
      prune(bucket, algorithm, at + 3, last)
      write_bucket(asked[at], bucket, ended)
    end
  end

  -- Why the documents listed at `at` cannot be used, or nil; whether one is not as believed; what they hold.
  local function look_at_documents(at)
    local stale, all = false, {}
    for i = 1, asked[at] do
      local key, wrong = asked[at + i], nil
      all[i], wrong = string_at(key)
      if wrong then return wrong end
      local believed = key <= texts and ARGV[key + 1]
      if all[i] ~= believed or key > believed_absent_to then stale = true end
    end
    return nil, stale, all
  end

  local function look_at_members(at)
    local refused = false
    for i = at + 1, at + 2 * asked[at], 2 do
      local is = redis.pcall('SISMEMBER', KEYS[asked[i]], asked[i + 1])
      if type(is) == 'table' then return KEYS[asked[i]] .. ' is no set' end
      if is == 0 then refused = true end
    end
    return nil, refused
  end

  -- Why the buckets listed at `at` cannot be used, or nil; the buckets, and where each is asked for; where the next question is.
  local function look_at_buckets(at)
    local held, places, seen, wrong = {}, {}, {}, nil
    local next_at = at + 1
    for i = 1, asked[at] do
      local key = asked[next_at]
      local bucket = read_bucket(key)
      if type(bucket) == 'string' then wrong = bucket end
      -- It could not be spent from as a whole.
      if seen[key] then wrong = KEYS[key] .. ' is asked for twice in one question' end
      held[i], places[i], seen[key] = bucket, next_at, true
      next_at = next_at + 3 + 2 * asked[next_at + 2]
    end
    return wrong, held, places, next_at
  end

  local function answer(...)
    for i = 1, select('#', ...) do answers[size + i] = (select(i, ...)) end
    size = size + select('#', ...)
  end

  local function spend(cost, n, held, places)
    local granted = n
    for i = 1, cost > 0 and #held or 0 do
      if asked[places[i] + 1] < OBSERVES then granted = fitting(held[i], places[i], cost, granted) end
    end
    answer(SPENT, granted)
    for i = 1, #held do
      local passed = granted
      if asked[places[i] + 1] >= OBSERVES then
        if cost > 0 then passed = fitting(held[i], places[i], cost, granted) end
        answer(passed)
      end
      settle(held[i], places[i], cost, cost * passed)
    end
  end

  return function(at, answered)
    size = answered
    local shown = at + 2
    local until_ms = shown + asked[shown] + 1
    local members = until_ms + 1
    local broken, stale, documents = look_at_documents(shown)
    local no_set, refused = look_at_members(members)
    local no_bucket, held, places, next_at = look_at_buckets(members + 2 * asked[members] + 1)
    broken = broken or no_set or no_bucket
    if broken then
      answer(BROKEN, broken)
    elseif stale then
      answer(STALE)
      for i = 1, #documents do answer(documents[i]) end
    elseif asked[until_ms] and now >= asked[until_ms] then
      answer(EXPIRED)
    elseif refused then
      answer(REFUSED)
    else
      spend(asked[at], asked[at + 1], held, places)
    end
    return next_at, size
  end
end

-- Questions -------------------------------------------------------------------------------------------------------------

local at, answer_carefully = 6, nil
for _ = 1, asked[5] do
  local cost, n, not_after = asked[at], asked[at + 1], at + 3 + asked[at + 2]
  local until_ms, members, count, bucket = asked[not_after], asked[not_after + 1], asked[not_after + 2], not_after + 3
  local short = undoubted and cost > 0 and members == 0 and not (until_ms and now >= until_ms)
  local next_at, length
  if short and count == 1 and asked[bucket + 1] == FIXED and asked[bucket + 2] == 1 then
    -- The commonest question of all spends from one bucket of one fixed window.
    local key, limit, duration = asked[bucket], asked[bucket + 3], asked[bucket + 4]
    local held, mark, used, stored = found[key], now - now % duration, 0, 0
    local readable = not held or #held == 1 + STRIDE
    if held and readable then
      local version, algorithm, long, previous
      version, algorithm, long, stored, used, previous = from_bytes('<BBdddd', held)
      -- Written so that NaN is not readable either.
      readable = version == VERSION and algorithm == FIXED and long == duration and previous == 0
        and stored >= 0 and stored <= mark and stored % 1 == 0 and used >= 0 and used <= MOST and used % 1 == 0
      if stored < mark then used = 0 end
    end
    if readable then
      local room, wait = used < limit and limit - used or 0, 0
      local granted = floor(room / cost)
      if granted > n then granted = n end
      if granted > 0 then
        room, used = room - cost * granted, used + cost * granted
        local packed = to_bytes('<BBdddd', VERSION, FIXED, duration, mark, used, 0)
        keep(found, changed, key, packed, stored + duration, mark + duration)
      end
      if cost > limit then
        wait = -1
      elseif cost > room then
        wait = mark + duration - now
      end
      answers[size + 1], answers[size + 2] = SPENT, granted
      answers[size + 3], answers[size + 4], answers[size + 5], answers[size + 6] = room, mark + duration, wait, 0
      next_at, length = bucket + 5, size + 6
    end
  elseif short then
    next_at, length = spend_from_several(keep, now, asked, found, changed, answers, size, cost, n, count, bucket)
  end
  if not next_at then
    answer_carefully = answer_carefully or careful(keep, now, asked, found, changed, answers)
    next_at, length = answer_carefully(at, size)
  end
  at, size = next_at, length
end

local written = false
for key, ends in pairs(changed) do
  written = true
  if ends then
    call('SET', KEYS[key], found[key], 'PX', (floor(ends / SLACK_MS) + 2) * SLACK_MS - now)
  else
    call('SETRANGE', KEYS[key], '0', found[key])
  end
end
-- A master that has become a replica goes on answering, by what was true then. A write shows it. Where there is none, writing
-- no bytes does, which makes no key and changes none. What else keeps the server from writing (OOM, NOREPLICAS) is no reason to
-- refuse those who are not counted. The key is in the slot of the call, and where the gate's login may count.
if not written and KEYS[1] then
  local bucket = strings > texts and KEYS[texts + 1] or KEYS[1]:match('^[^}]*}:') .. 'count::probe'
  local refused = redis.pcall('SETRANGE', bucket, '0', '')
  if type(refused) == 'table' and refused.err:find('READONLY', 1, true) then
    return { err = 'READONLY this is a replica, which may not decide' }
  end
end
return cmsgpack.pack(answers)
