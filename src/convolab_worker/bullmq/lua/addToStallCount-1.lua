--[[
  Adds to how often a job was found stalled, unless the job is gone.

    KEYS[1] the job's hash
    ARGV[1] how much is added

  HINCRBY makes a hash where none is. Only a count that is new can be such a hash's; to look at it
  afterwards costs a command less than to ask each time whether the job, which has been fetched and
  so counts its starts, is there.
]]
local count = redis.call("HINCRBY", KEYS[1], "stc", ARGV[1])
if count == tonumber(ARGV[1]) and redis.call("HEXISTS", KEYS[1], "ats") == 0 then
  redis.call("HDEL", KEYS[1], "stc")
end
