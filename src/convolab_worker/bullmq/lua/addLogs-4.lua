--[[
  Adds rows to a job's log and records its progress, unless the job is gone. BullMQ's addLog adds
  one row at a time.

    KEYS[1] the job's hash
    KEYS[2] the queue's events
    KEYS[3] the queue's meta
    KEYS[4] the job's log
    ARGV[1] the job's id
    ARGV[2] the progress as JSON text, or ""
    ARGV[3] how many rows are kept, or ""
    ARGV[4] and all that follow: the rows

  Answers how many rows there are; -1 if there is no such job.
]]
local function updateProgress()
--- @include "updateProgress"
end
if ARGV[2] ~= "" then
  if updateProgress() < 0 then return -1 end
elseif redis.call("EXISTS", KEYS[1]) == 0 then
  return -1
end
local rows = redis.call("RPUSH", KEYS[4], unpack(ARGV, 4))
if ARGV[3] ~= "" then redis.call("LTRIM", KEYS[4], -ARGV[3], -1) end
return rows
