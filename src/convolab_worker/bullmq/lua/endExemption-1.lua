--[[
  Ends a job's exemption from the count of stalls, if it has not ended yet: for a command whose reply
  was lost, which may have been executed.

    KEYS[1] the job's hash
    ARGV[1] what the count is during the exemption
]]
if tonumber(redis.call("HGET", KEYS[1], "stc") or "") == tonumber(ARGV[1]) then
  redis.call("HINCRBY", KEYS[1], "stc", 1)
end
