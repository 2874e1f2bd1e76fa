--[[
  Adds to how often a job was found stalled, unless the job is gone.

    KEYS[1] the job's hash
    ARGV[1] how much is added

  HINCRBY makes a hash where none is. Only then is the count what was added and the only field; to
  see that afterwards costs a command less than to ask EXISTS each time.
]]
local count = redis.call("HINCRBY", KEYS[1], "stc", ARGV[1])
if count == tonumber(ARGV[1]) and redis.call("HLEN", KEYS[1]) == 1 then
  redis.call("DEL", KEYS[1])
end
