-- wrk: one key after the other, from a file with a key a line. `wrk … -s keys.lua -- FILE`
local requests, at = {}, 0
function init(args)
  for key in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("GET", nil, { Authorization = "Bearer " .. key, Host = wrk.headers.Host })
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
