--[[
  Runs a script, whose text stands in place of @script, and counts the commands that it runs.

  Answers {how many commands were run, what the script answers}; an error as the script does.
]]
local call, tryCall, commandsRun = redis.call, redis.pcall, 0
local function run()
--- @script
end
local answer = run()
if type(answer) == "table" and answer.err then
  return answer
end
if answer == nil then
  answer = false -- an array ends at nil
end
return {commandsRun, answer}
