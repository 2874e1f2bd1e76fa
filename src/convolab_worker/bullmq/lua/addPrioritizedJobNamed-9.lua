--[[
  Adds a job whose id its producer has chosen, and tells whether a job of that id was there.

  KEYS and ARGV are those of BullMQ's addPrioritizedJob, and:

    ARGV[4] "1" where an earlier try of the same call, with the same timestamp, may have added it

  Answers {what addPrioritizedJob answers, 1 if the job was there, 0 if not}.
]]
local named = cmsgpack.unpack(ARGV[1])
local key = named[1] .. named[2]
local existed = redis.call("EXISTS", key)
if existed == 1 and ARGV[4] == "1"
    and tonumber(redis.call("HGET", key, "timestamp")) == named[4] then
  existed = 0
end
local function add()
--- @include "addPrioritizedJob"
end
return {add(), existed}
