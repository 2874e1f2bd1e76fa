--[[
  Keeps the result of a job's step in the job's hash, and renews the job's lock.

    KEYS[1] the job's lock
    KEYS[2] the job's hash
    ARGV[1] the worker's token
    ARGV[2] the lock's length in milliseconds
    ARGV[3] the field of the step
    ARGV[4] its result as JSON text

  Answers "renewed"; "kept" where a request to cancel the job waits in the lock, which is left as it
  is; {"known", text} where the step has a result already, which stands. Answers nothing where the
  lock is not the worker's, or the job is gone: nothing is written then.
]]
local rcall = redis.call
local value = rcall("GET", KEYS[1])
local isRenewed = value == ARGV[1]
if not isRenewed then
  if not value or string.sub(value, 1, 7) ~= "cancel:" then return false end
  local isRequest, request = pcall(cjson.decode, string.sub(value, 8))
  if not isRequest or type(request) ~= "table" or request.token ~= ARGV[1] then return false end
end
if rcall("EXISTS", KEYS[2]) == 0 then return false end
local isNew = rcall("HSETNX", KEYS[2], ARGV[3], ARGV[4]) == 1
if isRenewed then rcall("SET", KEYS[1], ARGV[1], "PX", ARGV[2]) end
if not isNew then return {"known", rcall("HGET", KEYS[2], ARGV[3])} end
return isRenewed and "renewed" or "kept"
