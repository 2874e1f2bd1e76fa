--[[
  Locks a job again whose lock has run out, if no other worker has taken it since.

    KEYS[1] the job's lock
    KEYS[2] the list of active jobs
    KEYS[3] the job's hash
    ARGV[1] the job's id
    ARGV[2] the worker's token
    ARGV[3] the lock's length in milliseconds
    ARGV[4] how often the job had been started when this worker took it

  Answers 1 if the job is locked under the token, 0 if it is not the worker's any more.
]]
local rcall = redis.call
if not rcall("LPOS", KEYS[2], ARGV[1]) then return 0 end
-- Another program may have written over the hash: then nothing tells whose the job is.
if redis.pcall("HGET", KEYS[3], "ats") ~= ARGV[4] then return 0 end
if rcall("SET", KEYS[1], ARGV[2], "PX", ARGV[3], "NX") then return 1 end
return rcall("GET", KEYS[1]) == ARGV[2] and 1 or 0
