-- wrk: about 4,000 requests a second from 32 connections, each waiting 1 to 15 ms, 8 on average, between two requests.
-- The wait begins after an answer and wrk's clock after the wait, so that latency is the contender's alone.
local random = math.random
function delay() return random(1, 15) end
