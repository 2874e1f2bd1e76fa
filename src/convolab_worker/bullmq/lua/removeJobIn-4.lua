--[[
  Removes a job with its children, if it still stands where it was seen.

  BullMQ's removeJob removes a job from any state, also one that was retried, or has ended, a moment
  ago. KEYS and ARGV are those of removeJob, and:

    KEYS[3] the list or set that the job was seen in
    KEYS[4] another one in which jobs of that state stand, or a key that is neither
]]
local function standsIn(place)
  local kind = redis.call("TYPE", place).ok
  if kind == "list" then return redis.call("LPOS", place, ARGV[1]) end
  return kind == "zset" and redis.call("ZSCORE", place, ARGV[1])
end
if not standsIn(KEYS[3]) and not standsIn(KEYS[4]) then return -3 end
--- @include "removeJob"
