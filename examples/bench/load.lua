-- Load for wrk: the same JSON body in every request, each time with another gid.
--
--   wrk ... -s load.lua URL -- BODY PREFIX [STATUS TEXT]
--
-- In BODY, the word GID is replaced by the gid: PREFIX and ten digits. The words EVEN and ODD are replaced by two numbers
-- of four digits that consecutive requests do not share. Every response must have a status below 400 or, if they are
-- given, STATUS and a body with TEXT. Prints the result as one line of JSON, with times in microseconds.

local threads = {}
wrong = 0 -- number of wrong responses; global, so that done() can read it from each thread

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  local body, prefix, status, text = args[1], args[2], tonumber(args[3]), args[4]
  -- Each replacement has a fixed length, so the request is built once and then only filled in.
  local form = { GID = prefix .. "%010d", EVEN = "%04d", ODD = "%04d" }
  local filled = body:gsub("%u+", function(word) return form[word] and form[word]:format(0) end)
  local head = wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, filled)
  local pieces, fills = { head:sub(1, #head - #filled) }, {}
  local rest = body:gsub("(.-)(%u+)", function(before, word)
    pieces[#pieces] = pieces[#pieces] .. before .. (form[word] and "" or word)
    if form[word] then
      table.insert(fills, { at = #pieces + 1, word = word })
      table.insert(pieces, "")
      table.insert(pieces, "")
    end
    return ""
  end)
  pieces[#pieces] = pieces[#pieces] .. rest
  local number = 0
  function request()
    number = number + 1
    local even = number * 2 % 2000
    local values = { GID = number, EVEN = even, ODD = even + 1 }
    for _, fill in ipairs(fills) do
      pieces[fill.at] = form[fill.word]:format(values[fill.word])
    end
    return table.concat(pieces)
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
