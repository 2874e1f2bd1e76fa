--[[
  Takes a job's lock back from a request to cancel the job.

    KEYS[1] the job's lock
    ARGV[1] the worker's token
    ARGV[2] the lock's length in milliseconds

  Answers why the job is to fail, "" to return it; 1 if the lock is the worker's already, nothing
  if it is somebody else's.
]]
local value = redis.call("GET", KEYS[1])
if value == ARGV[1] then return 1 end
if not value or string.sub(value, 1, 7) ~= "cancel:" then return false end
local isRequest, request = pcall(cjson.decode, string.sub(value, 8))
if not isRequest or type(request) ~= "table" or request.token ~= ARGV[1] then return false end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return type(request.fail) == "string" and request.fail or ""
