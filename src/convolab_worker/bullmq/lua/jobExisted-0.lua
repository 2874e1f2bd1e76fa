--[[
  Tells whether a job of the id that its producer has chosen is there: existed is 1, or else 0.

  Included before what adds the job, which has BullMQ's ARGV[1], and:

    ARGV[4] "1" where an earlier try of the same call, with the same timestamp, may have added it
]]
local named = cmsgpack.unpack(ARGV[1])
local key = named[1] .. named[2]
local existed = redis.call("EXISTS", key)
if existed == 1 and ARGV[4] == "1"
    and tonumber(redis.call("HGET", key, "timestamp")) == named[4] then
  existed = 0
end
