--[[
  Starts the next job of a queue as BullMQ's moveToActive does, whose KEYS and ARGV these are, in
  fewer commands. Where more is to be done (a rate limit, a delayed job that is due), BullMQ's own
  script follows. It runs inside countCommands.
]]
--- @include "startNextJob"
local function startOrdinarily()
  local now, opts = ARGV[2], cmsgpack.unpack(ARGV[3])
  if opts["limiter"] then
    return nil
  end
  commandsRun = 1
  local meta = call("HMGET", KEYS[9], "paused", "concurrency", "max")
  if meta[3] or meta[2] and not tonumber(meta[2]) then
    return nil
  end
  commandsRun = 2
  local due = tonumber(call("ZRANGE", KEYS[7], 0, 0, "WITHSCORES")[2])
  if due and due < (now + 1) * 0x1000 then
    return nil
  end
  local answer = startNextJob(KEYS[11], ARGV[1], now, opts["token"], opts["lockDuration"], opts["name"],
    meta[1], meta[2])
  return answer or {0, 0, 0, answer == nil and due and due / 0x1000 or 0}
end
local answer = startOrdinarily()
if answer then
  return answer
end
--- @include "countCalls"
--- @include "moveToActive"
