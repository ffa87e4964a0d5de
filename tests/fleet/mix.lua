-- For wrk. Argument: a file of calls, one a line, path and body with a tab between; posted in turn, from
-- a place that is each thread's own.
-- Prints: requests, microseconds of the run, p50 and p99 in microseconds, and how many were answered
-- with 503, with another 5xx, or not at all.
local calls = {}
local at = 0
local threads = {}

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   busy, broken = 0, 0
   local headers = { ["Content-Type"] = "application/json" }
   for line in io.lines(args[1]) do
      local path, body = line:match("([^\t]*)\t(.*)")
      calls[#calls + 1] = wrk.format("POST", path, headers, body)
   end
   math.randomseed(os.time())
   at = math.random(#calls)
end

function request()
   at = at % #calls + 1
   return calls[at]
end

function response(status)
   if status == 503 then
      busy = busy + 1
   elseif status >= 500 then
      broken = broken + 1
   end
end

function done(summary, latency, requests)
   local busy, broken = 0, 0
   for _, thread in ipairs(threads) do
      busy, broken = busy + thread:get("busy"), broken + thread:get("broken")
   end
   local lost = summary.errors.connect + summary.errors.read + summary.errors.write
      + summary.errors.timeout
   io.write(string.format("found %d %d %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), busy, broken, lost))
end
