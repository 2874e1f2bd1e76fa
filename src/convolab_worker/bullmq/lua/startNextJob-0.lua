--[[
  Starts the next job of a queue, in fewer commands than BullMQ's scripts do the same.

  Included where a queue has no rate limit, and no delayed job that is due:

    startNextJob(markerKey, prefix, now, token, lockDuration, name, paused, concurrency)
      uses KEYS[1] wait, KEYS[2] active, KEYS[3] prioritized, KEYS[4] events, KEYS[10] pc
      name                 of the worker, or false
      paused, concurrency  the fields of the queue's meta, false where they are not set
    answers BullMQ's {fields of the job's hash, its id, 0, 0}, where a field that changed comes
    twice, the new value last; nil if no job waits; false if the queue may start none.

  It runs inside countCommands, which defines call, tryCall and commandsRun. What runs commands adds them to
  commandsRun in one step: to count each alone would take longer.
]]

-- Whether Lua can count such a field up as Redis would: to Redis "007" is not a number, and Lua writes
-- one of 15 digits with an exponent.
local function isCount(value)
  return value == "0" or #value < 14 and string.find(value, "^[1-9]%d*$")
end

local function takeNextJob()
  commandsRun = commandsRun + 1
  local id = call("RPOPLPUSH", KEYS[1], KEYS[2])
  if id and string.sub(id, 1, 2) == "0:" then -- a marker of BullMQ before version 5
    commandsRun = commandsRun + 1
    call("LREM", KEYS[2], 1, id)
    if not KEYS[12] then
      commandsRun = commandsRun + 1
      id = call("RPOPLPUSH", KEYS[1], KEYS[2])
    elseif id == "0:0" then -- to BullMQ's moveToFinished: a prioritized job waits
      id = nil
    else -- and of others: start none
      return nil
    end
  end
  if id then
    return id
  end
  commandsRun = commandsRun + 2
  id = call("ZPOPMIN", KEYS[3])[1]
  if id then
    call("LPUSH", KEYS[2], id)
  else
    call("DEL", KEYS[10])
  end
  return id
end

local function startNextJob(markerKey, prefix, now, token, lockDuration, name, paused, concurrency)
  if not paused and concurrency then
    commandsRun = commandsRun + 1
    paused = call("LLEN", KEYS[2]) >= tonumber(concurrency)
  end
  if paused then
    return false
  end
  local id = takeNextJob()
  if not id then
    return nil
  end
  local key = prefix .. id
  call("SET", key .. ":lock", token, "PX", lockDuration)
  call("XADD", KEYS[4], "*", "event", "active", "jobId", id, "prev", "waiting")
  local job, starts = call("HGETALL", key), "1"
  local size = #job
  for at = 1, size, 2 do
    if job[at] == "ats" then
      starts = job[at + 1]
      if isCount(starts) then
        starts = tostring(starts + 1)
      else -- in BullMQ's order, for Redis may refuse to count up
        call("HSET", key, "processedOn", now)
        if name then
          call("HSET", key, "pb", name)
          commandsRun = commandsRun + 1
        end
        call("HINCRBY", key, "ats", 1)
        starts = call("HGET", key, "ats") -- the answer before may be rounded
        commandsRun = commandsRun + 3
      end
      break
    end
  end
  job[size + 1], job[size + 2], job[size + 3], job[size + 4] = "processedOn", now, "ats", starts
  if name then
    job[size + 5], job[size + 6] = "pb", name
    call("HSET", key, "processedOn", now, "pb", name, "ats", starts)
  else
    call("HSET", key, "processedOn", now, "ats", starts)
  end
  call("ZADD", markerKey, 0, "0")
  commandsRun = commandsRun + 5
  return {job, id, 0, 0}
end
