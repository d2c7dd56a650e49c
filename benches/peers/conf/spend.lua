-- KEYS: record (hash), counter. ARGV: scope, now (seconds), the counter's time to live.
-- Reads the record, checks it and the scope, counts one. A status line, so that the asker reads the answer in one go.
local id, business, scopes, revoked, expires, limit =
  unpack(redis.call('HMGET', KEYS[1], 'id', 'business', 'scopes', 'revoked_at', 'expires_at', 'limit'))
if not id or revoked or (expires and tonumber(expires) <= tonumber(ARGV[2])) then return { ok = '401 0 0 - -' } end
if not string.find(scopes, ' ' .. ARGV[1] .. ' ', 1, true) then return { ok = '403 0 0 - -' } end
local used = redis.call('INCR', KEYS[2])
if used == 1 then redis.call('EXPIRE', KEYS[2], ARGV[3]) end
local left = limit - used
if left < 0 then return { ok = '429 ' .. limit .. ' 0 ' .. id .. ' ' .. business } end
return { ok = '200 ' .. limit .. ' ' .. string.format('%.0f', left) .. ' ' .. id .. ' ' .. business }
