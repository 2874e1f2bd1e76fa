--[[
  Puts a job back into active that a script which failed half-way has taken out: BullMQ's scripts
  remove a job's lock and its place in active before they write its end.

    KEYS[1] to KEYS[8] where jobs stand, as BullMQ's getStateV2 wants them; KEYS[4] is active
    KEYS[9] the job's hash
    KEYS[10] the job's lock
    ARGV[1] the job's id
    ARGV[2] the job's key
    ARGV[3] the worker's token
    ARGV[4] the lock's length in milliseconds
    ARGV[5] the number of attempts that the hash is to have, or ""

  Answers 1 if the job is active; 0 if it is gone, or its end was written before the script failed.
]]
local rcall = redis.call
local function getState()
-- A key of another type, which may be why the script failed, holds no job.
local redis = {
  call = function(...)
    local reply = redis.pcall(...)
    return not (type(reply) == "table" and reply.err) and reply
  end
}
--- @include "getStateV2"
end
if rcall("EXISTS", KEYS[9]) == 0 then return 0 end
if ARGV[5] ~= "" then rcall("HSET", KEYS[9], "atm", ARGV[5]) end
local state = getState()
if state == "unknown" then
  rcall("LPUSH", KEYS[4], ARGV[1])
elseif state ~= "active" then
  return 0
end
rcall("SET", KEYS[10], ARGV[3], "PX", ARGV[4], "NX")
return 1
