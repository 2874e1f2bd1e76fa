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
if type(answer) ~= "number" or answer >= 0 then
  for first = 1, #fields, 1000 do
    redis.call("HDEL", KEYS[12], unpack(fields, first, math.min(first + 999, #fields)))
    if type(answer) == "table" and answer[5] then
      answer[5] = answer[5] + 1
    end
  end
end
return answer
