--[[
  Asks the worker that has a job to cancel it, through the job's lock: the worker's next renewal, or
  the end of the job, finds the request in place of its token, and takes the lock back.

    KEYS[1] the job's lock
    KEYS[2] the list of active jobs
    ARGV[1] the job's id
    ARGV[2] the queue's key prefix
    ARGV[3] why it fails, or "" to return it to its queue
    ARGV[4] how long the worker's inbox keeps the news, in milliseconds

  Answers "asked", or why not: "idle", "foreign".
]]
local rcall = redis.call
local value = rcall("GET", KEYS[1])
if not value or not rcall("LPOS", KEYS[2], ARGV[1]) then return "idle" end
if string.sub(value, 1, 7) == "cancel:" then return "asked" end
local worker = string.match(value, "^(%x+):%d+$")
if not worker or #worker ~= 16 then return "foreign" end
local request = cjson.encode({token = value, fail = ARGV[3]})
rcall("SET", KEYS[1], "cancel:" .. request, "XX", "KEEPTTL")
-- A worker with a free slot listens here, and hears of it at once.
local inbox = ARGV[2] .. "cancel:" .. worker
rcall("ZADD", inbox, 0, ARGV[1])
rcall("PEXPIRE", inbox, ARGV[4])
return "asked"
