--[[
  Removes a job with its children, if it is still among the failed ones.

  BullMQ's removeJob removes a job from any state, also one that was retried a moment ago. KEYS and
  ARGV are those of removeJob, and:

    KEYS[3] the set of failed jobs
]]
if not redis.call("ZSCORE", KEYS[3], ARGV[1]) then return -3 end
--- @include "removeJob"
