-- What a team would write in nginx to get sidegate's job done, as lean as we could make it: the key's SHA-256, its record,
-- the scope and one fixed window in a single EVALSHA over a kept connection, sent from a table (no concatenation) and
-- answered in one status line (one receive). A request never shares a connection in ngx_lua, so there is nothing to pipeline.
local ffi = require "ffi"
ffi.cdef [[
unsigned char *SHA256(const unsigned char *d, size_t n, unsigned char *md);
unsigned char *ngx_hex_dump(unsigned char *dst, const unsigned char *src, size_t len);
]]
local C, ffi_string = ffi.C, ffi.string
local digest, hex = ffi.new("unsigned char[32]"), ffi.new("unsigned char[64]")
local ngx, tcp = ngx, ngx.socket.tcp
local find, sub, byte = string.find, string.sub, string.byte

local PORT = tonumber(os.getenv("BENCH_REDIS_PORT"))
local POOL = { pool = "redis", pool_size = 256 }
local WINDOW = 60

local script
do
  local file = assert(io.open(debug.getinfo(1, "S").source:match("^@(.*)gate%.lua$") .. "spend.lua"))
  script = file:read("*a")
  file:close()
end

local function sha256_hex(text)
  C.SHA256(text, #text, digest)
  C.ngx_hex_dump(hex, digest, 32)
  return ffi_string(hex, 64)
end

-- SHA-1 of the script, which Redis knows it by.
local sha = (ngx.sha1_bin(script):gsub(".", function(c) return ("%02x"):format(byte(c)) end))

-- One command for every request; the holes are filled in place. The access phase does not yield between filling and sending.
local HEAD = "*8\r\n$7\r\nEVALSHA\r\n$40\r\n" .. sha .. "\r\n$1\r\n2\r\n$72\r\nlua:key:"
local FULL = "*8\r\n$4\r\nEVAL\r\n$" .. #script .. "\r\n" .. script .. "\r\n$1\r\n2\r\n$72\r\nlua:key:"
local command = { HEAD, "", "\r\n$", "", "\r\nlua:cnt:", "", ":", "", "\r\n$", "", "\r\n", "", "\r\n$10\r\n", "", "\r\n$3\r\n120\r\n" }

local function ask(key, window, scope, now)
  local redis = tcp()
  redis:settimeout(100)
  local ok, err = redis:connect("127.0.0.1", PORT, POOL)
  if not ok then return nil, err end
  local from = 1
  while true do
    command[1] = from == 1 and HEAD or FULL
    command[2] = key
    command[4], command[6], command[8] = 8 + #key + 1 + #window, key, window
    command[10], command[12] = #scope, scope
    command[14] = now
    ok, err = redis:send(command)
    if not ok then return nil, err end
    local line
    line, err = redis:receive("*l")
    if not line then return nil, err end
    if byte(line) == 43 then -- "+"
      redis:setkeepalive(60000, 256)
      return line
    end
    if from == 2 or sub(line, 2, 9) ~= "NOSCRIPT" then
      redis:close()
      return nil, line
    end
    from = 2
  end
end

local BEARER = "Bearer "

local function deny(status, body)
  ngx.status = status
  ngx.header.content_type = "application/problem+json"
  ngx.print(body)
  return ngx.exit(status)
end

return function(scope)
  local var, header = ngx.var, ngx.header
  local sent = var.http_authorization
  if not sent or sub(sent, 1, 7) ~= BEARER then
    header["WWW-Authenticate"] = 'Bearer realm="api"'
    return deny(401, '{"status":401,"code":"missing_key"}')
  end
  local now = ngx.time()
  local starts = now - now % WINDOW
  local answer, err = ask(sha256_hex(sub(sent, 8)), tostring(starts), scope, tostring(now))
  if not answer then
    ngx.log(ngx.ERR, "redis: ", err)
    return deny(503, '{"status":503,"code":"store_unavailable"}')
  end
  -- "+<status> <limit> <remaining> <key id> <business>"
  local _, _, status, limit, remaining, id, business = find(answer, "^%+(%d+) (%d+) (%d+) (%S+) (%S+)$")
  if not status or status == "401" then
    header["WWW-Authenticate"] = 'Bearer realm="api", error="invalid_token"'
    return deny(401, '{"status":401,"code":"invalid_api_key"}')
  end
  if status == "403" then return deny(403, '{"status":403,"code":"insufficient_scope"}') end
  header["X-RateLimit-Limit"] = limit
  header["X-RateLimit-Remaining"] = remaining
  header["X-RateLimit-Reset"] = starts + WINDOW
  header["X-Request-Id"] = var.request_id
  if status == "429" then
    header["Retry-After"] = starts + WINDOW - now
    return deny(429, '{"status":429,"code":"rate_limited"}')
  end
  var.key_id, var.business = id, business
end
