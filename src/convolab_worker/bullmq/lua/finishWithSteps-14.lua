--[[
  Completes a job as BullMQ's moveToFinished does, whose KEYS and ARGV these are, and removes the
  results of its steps, which nobody needs any more. The last ARGV is their fields, as a msgpack
  array.
]]
local fields = cmsgpack.unpack(table.remove(ARGV))
local function moveToFinished()
--- @include "moveToFinished"
end
local answer = moveToFinished()
local hasFailed = type(answer) == "table" and answer.err -- then the job runs again
if not hasFailed and (type(answer) ~= "number" or answer >= 0) then
  for first = 1, #fields, 1000 do
    redis.call("HDEL", KEYS[12], unpack(fields, first, math.min(first + 999, #fields)))
  end
end
return answer
