-- Gives back what a question spent in one slot before another slot denied it: in the windows it was spent in, or not at all.
--
-- KEYS     buckets, as decide.lua keeps them
-- ARGV[1]  MessagePack: {{key's index, algorithm, duration_ms, mark_ms, amount}, ...}
--
-- The mark says in which window it was spent; where that window has ended, there is nothing to give back to. A token bucket
-- has no windows: its level sinks by what was taken, as if it had never been. A bucket that nobody could have written is left.

local FIXED, SLIDING, TOKEN = 0, 1, 2
local VERSION, STRIDE, PACKED = 1, 33, '<Bdddd'

for _, given in ipairs(cmsgpack.unpack(ARGV[1])) do
  local key, wanted, length, spent_in, amount = KEYS[given[1]], given[2], given[3], given[4], given[5]
  local bytes = redis.pcall('GET', key)
  if type(bytes) == 'string' and bytes:byte(1) == VERSION and (#bytes - 1) % STRIDE == 0 then
    local packed, changed = bytes:sub(1, 1), false
    for at = 2, #bytes, STRIDE do
      local algorithm, duration, mark, used, previous = struct.unpack(PACKED, bytes, at)
      if algorithm == wanted and duration == length then
        changed = true
        if algorithm == TOKEN then
          used = math.max(used - amount * duration, 0)
        elseif mark == spent_in then
          used = math.max(used - amount, 0)
        elseif algorithm == SLIDING and mark == spent_in + duration then
          previous = math.max(previous - amount, 0)
        end
      end
      packed = packed .. struct.pack(PACKED, algorithm, duration, mark, used, previous)
    end
    if changed then redis.call('SET', key, packed, 'KEEPTTL') end
  end
end
