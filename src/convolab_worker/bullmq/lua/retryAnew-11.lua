--[[
  Puts a job that has ended back into its queue as BullMQ's reprocessJob does, whose KEYS and first
  ARGV these are, and makes more of its run new.

    KEYS[10] the queue's waiting-children
    KEYS[11] the job's dependencies: its children that have not ended

    the last two ARGV
      how the fields of steps begin, whose results are removed so that they run anew, or ""
      the time, if the job is to wait for its children that have not ended, or ""
]]
local now = table.remove(ARGV)
local prefix = table.remove(ARGV)
local function reprocessJob()
--- @include "reprocessJob"
end
local answer = reprocessJob()
if answer ~= 1 then return answer end
if prefix ~= "" then
  for _, field in ipairs(redis.call("HKEYS", KEYS[1])) do
    if string.sub(field, 1, #prefix) == prefix then redis.call("HDEL", KEYS[1], field) end
  end
end
if now ~= "" and redis.call("SCARD", KEYS[11]) > 0 then
  local left = redis.call("LREM", KEYS[4], 1, ARGV[1]) + redis.call("ZREM", KEYS[8], ARGV[1])
  if left > 0 then
    redis.call("ZADD", KEYS[10], now, ARGV[1])
    redis.call("XADD", KEYS[2], "*", "event", "waiting-children", "jobId", ARGV[1], "prev", "waiting")
  end
end
return answer
