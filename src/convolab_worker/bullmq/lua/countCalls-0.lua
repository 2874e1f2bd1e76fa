--[[
  Has countCommands count each command of the text that follows.
]]
local redis = setmetatable({
  call = function(...)
    commandsRun = commandsRun + 1
    return (call(...)) -- in brackets, since an error in a tail call has no place
  end,
  pcall = function(...)
    commandsRun = commandsRun + 1
    return (tryCall(...))
  end,
}, {__index = redis})
