-- wrk asks for one page again and again. Prints what lookups.lua prints.
function done(summary, latency, requests)
   local failed = 0
   for _, count in pairs(summary.errors) do
      failed = failed + count
   end
   io.write(string.format("found %d %d %d %d %d\n", summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), failed))
end
