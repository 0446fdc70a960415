-- wrk's requests and report. Arguments: a seed, how many addresses (0: 8.8.8.8 alone), and the path before the address.

local count = 0
local path = ""
-- All of 21.0.0.0/8 is in the app's sample, so that nobody answers 404.
local function address(number)
  return string.format("%s%d.%d.%d.%d", path, 21 + math.floor(number / 16777216), math.floor(number / 65536) % 256,
    math.floor(number / 256) % 256, number % 256)
end

function init(args)
  math.randomseed(tonumber(args[1]))
  count = tonumber(args[2])
  path = args[3]
end

function request()
  if count == 0 then return wrk.format("GET", path .. "8.8.8.8") end
  if count > 0 then return wrk.format("GET", address(math.random(0, count - 1))) end
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format('{"requests": %d, "seconds": %.3f, "errors": %d, "timeouts": %d, "p50": %.3f, "p99": %.3f}',
    summary.requests, summary.duration / 1e6, errors.connect + errors.read + errors.write + errors.status,
    errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
