--[[
  Removes a job with its children, if it still stands where it was seen.

  BullMQ's removeJob removes a job from any state, also one that was retried, or has ended, a moment
  ago. KEYS and ARGV are those of removeJob, and:

    KEYS[3] the list or set that the job was seen in
]]
local place, id = KEYS[3], ARGV[1]
if redis.call("TYPE", place).ok == "list" then
  if not redis.call("LPOS", place, id) then return -3 end
elseif not redis.call("ZSCORE", place, id) then
  return -3
end
--- @include "removeJob"
