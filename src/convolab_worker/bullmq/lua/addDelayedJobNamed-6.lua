--[[
  Adds a job whose id its producer has chosen, and tells whether a job of that id was there.

  KEYS and ARGV are those of BullMQ's addDelayedJob, and the ARGV[4] of jobExisted.

  Answers {what addDelayedJob answers, 1 if the job was there, 0 if not}.
]]
--- @include "jobExisted"
local function add()
--- @include "addDelayedJob"
end
return {add(), existed}
