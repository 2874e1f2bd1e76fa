--[[
  Adds a job whose id its producer has chosen, and tells whether a job of that id was there.

  KEYS and ARGV are those of BullMQ's addPrioritizedJob, and the ARGV[4] of jobExisted.

  Answers {what addPrioritizedJob answers, 1 if the job was there, 0 if not}.
]]
--- @include "jobExisted"
local function add()
--- @include "addPrioritizedJob"
end
return {add(), existed}
