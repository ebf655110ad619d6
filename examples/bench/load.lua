-- Load for wrk: the same JSON body again and again, each time with a gid of its own.
--
--   wrk ... -s load.lua URL -- BODY PREFIX [STATUS TEXT]
--
-- In BODY, the word GID stands for the gid: PREFIX and ten digits. Any answer below 400 is right, unless STATUS and
-- TEXT say what every answer must be and contain. Prints the result as one line of JSON, times in microseconds.

local threads = {}
wrong = 0 -- answers that are not as they must be; global, so that done() can ask each thread for it

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local body, prefix, status, text = args[1], args[2], tonumber(args[3]), args[4]
  -- All gids are equally long, so two requests differ in the gid alone: the rest is put together once.
  local model = prefix .. ("0"):rep(10)
  local whole = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, (body:gsub("GID", model)))
  local from, to = whole:find(model, 1, true)
  local before, after = whole:sub(1, from - 1) .. prefix, whole:sub(to + 1)
  local number = 0
  function request()
    number = number + 1
    return before .. string.format("%010d", number) .. after
  end
  -- Looking at every answer costs wrk time, so it is done only where the status alone does not tell.
  if status then
    function response(got, _, answer)
      if got ~= status or not answer:find(text, 1, true) then
        wrong = wrong + 1
      end
    end
  end
  expects = status
end

function done(summary, latency, _)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  for _, thread in ipairs(threads) do
    failed = failed + thread:get("wrong")
    if not thread:get("expects") then
      failed = failed + errors.status
    end
  end
  print(string.format(
    '{"requests":%d,"failed":%d,"seconds":%.6f,"p50":%.1f,"p99":%.1f,"p999":%.1f}',
    summary.requests, failed, summary.duration / 1e6,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)
  ))
end
