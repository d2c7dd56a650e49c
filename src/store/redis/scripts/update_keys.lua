-- Changes keys of one tenant, all of them or none: what stands there must still be what the caller decided on.
--
-- KEYS[1]  the set of the tenant's digests
-- KEYS[2]  how many keys have become active where a maximum holds: a number that only grows
-- KEYS[3…] documents
-- ARGV[1]  what KEYS[2] must still be, and is one more afterwards; empty: it plays no part
-- ARGV[2…] per document: its digest, what it must be, what it becomes; empty: there is none
-- returns  1 done, 0 something else stands there by now
--
-- When the last key goes, KEYS[2] goes an hour later: not at once, since a change that was decided on before must not meet a
-- number that has begun anew.
--
-- Whoever makes a key active has counted the others first, which takes several calls; the number tells him whether
-- anybody else did so meanwhile.

local counted = ARGV[1]
if counted ~= '' and (redis.call('GET', KEYS[2]) or '0') ~= counted then return 0 end
for i = 3, #KEYS do
  if (redis.call('GET', KEYS[i]) or '') ~= ARGV[3 * (i - 3) + 3] then return 0 end
end

local deleted = false
for i = 3, #KEYS do
  local digest, document = ARGV[3 * (i - 3) + 2], ARGV[3 * (i - 3) + 4]
  if document == '' then
    redis.call('DEL', KEYS[i])
    redis.call('SREM', KEYS[1], digest)
    deleted = true
  else
    -- Whoever made it may have let it vanish by itself.
    redis.call('SET', KEYS[i], document, 'KEEPTTL')
    redis.call('SADD', KEYS[1], digest)
  end
end
if deleted then
  -- Only what the management's login may do anyhow: SSCAN instead of SCARD, SET instead of EXPIRE.
  local left, number = redis.call('SSCAN', KEYS[1], 0), redis.call('GET', KEYS[2])
  if left[1] == '0' and #left[2] == 0 and number then redis.call('SET', KEYS[2], number, 'EX', 3600) end
end
if counted ~= '' then redis.call('SET', KEYS[2], string.format('%d', counted + 1)) end
return 1
