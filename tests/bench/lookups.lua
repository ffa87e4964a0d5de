-- wrk sends the questions of a file, one a line, in turn from a place that is each thread's own.
-- Arguments: the file. Prints: requests, microseconds, p50, p99 (microseconds), failed.
local questions = {}
local at = 0

function init(args)
   for line in io.lines(args[1]) do
      questions[#questions + 1] = line
   end
   math.randomseed(os.time())
   at = math.random(#questions)
end

function request()
   at = at % #questions + 1
   return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, questions[at])
end

function done(summary, latency, requests)
   local failed = 0
   for _, count in pairs(summary.errors) do
      failed = failed + count
   end
   io.write(string.format("found %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), failed))
end
