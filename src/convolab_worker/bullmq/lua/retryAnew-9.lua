--[[
  Puts a job that has ended back into its queue as BullMQ's reprocessJob does, whose KEYS and ARGV
  these are, and removes the results of its steps, so that they run anew. The last ARGV is how the
  fields of steps begin.
]]
local prefix = table.remove(ARGV)
local function reprocessJob()
--- @include "reprocessJob"
end
local answer = reprocessJob()
if answer == 1 then
  for _, field in ipairs(redis.call("HKEYS", KEYS[1])) do
    if string.sub(field, 1, #prefix) == prefix then redis.call("HDEL", KEYS[1], field) end
  end
end
return answer
