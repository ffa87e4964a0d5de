-- For wrk. Argument: a file of questions, one a line, that are posted in turn, from a place that is
-- each thread's own; without one, the URL is asked for again and again.
-- Requests are made beforehand: the service shares the processor with who asks.
-- Prints: requests, microseconds of the run, p50 and p99 in microseconds, failed requests.
local questions = {}
local at = 0

function init(args)
   if args[1] then
      local headers = { ["Content-Type"] = "application/json" }
      for line in io.lines(args[1]) do
         questions[#questions + 1] = wrk.format("POST", nil, headers, line)
      end
      math.randomseed(os.time())
      at = math.random(#questions)
   end
end

function request()
   if #questions == 0 then
      return wrk.format()
   end
   at = at % #questions + 1
   return questions[at]
end

function done(summary, latency, requests)
   local failed = 0
   for _, count in pairs(summary.errors) do
      failed = failed + count
   end
   io.write(string.format("found %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), failed))
end
