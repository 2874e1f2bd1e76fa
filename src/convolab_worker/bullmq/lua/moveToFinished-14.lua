--[[
  Completes a job as BullMQ's moveToFinished does, and starts the next one, in fewer commands. KEYS
  and ARGV are BullMQ's, ARGV[9] an empty text (no fields to write), and, which BullMQ's does not
  read and which is quicker to read than its options:

    ARGV[10] the lock's token; where it is left out, BullMQ's script does all
    ARGV[11] the length of the next job's lock in milliseconds
    ARGV[12] the worker's name, or ""
    ARGV[13] "1" where the options say more: how many old jobs are kept, a rate limit, metrics

  Where more is to be done, BullMQ's own script follows: for a failure, for the last child of a
  parent, for a job whose children have not ended or that is deduplicated, in a queue with a rate
  limit or metrics, and where a delayed job is due or many old jobs are removed.

  It runs inside countCommands. Nothing is written before it is known whether BullMQ's script runs.
]]
--- @include "startNextJob"
local MOST_REMOVED = 10
local key, id, now = KEYS[12], ARGV[1], ARGV[2]
local hasNext = ARGV[6] == "1"
-- What isOrdinary finds.
local meta, job, due, keep, old, tooOld

-- The completed jobs that are kept no longer once this one is among them, the newest first, and how
-- many of them are too old; nil where they are many, or BullMQ's own script has to find them.
local function outlived()
  local count, age, ids, aged = keep["count"], keep["age"], {}, 0
  if count and count > 0 then
    commandsRun = commandsRun + 1
    local oldest = call("ZREVRANGE", KEYS[11], count - 1, count - 1 + MOST_REMOVED, "WITHSCORES")
    if oldest[2] and tonumber(oldest[2]) >= tonumber(now) then
      return nil -- those of the same time may stay or go
    end
    for at = 1, #oldest, 2 do
      ids[#ids + 1] = oldest[at]
    end
  end
  if age and age <= 0 then
    return nil -- this one is among them
  elseif age then
    commandsRun = commandsRun + 1
    local oldest = call("ZREVRANGEBYSCORE", KEYS[11], now - age * 1000, "-inf", "LIMIT", 0,
      MOST_REMOVED + 1)
    aged = #oldest
    if aged > #ids then
      ids = oldest
    end
  end
  if #ids > MOST_REMOVED or keep["limit"] then
    return nil
  end
  for _, each in ipairs(ids) do
    if each == id then
      return nil
    end
    commandsRun = commandsRun + 1
    local eachKey = ARGV[7] .. each
    local parentKey = call("HGET", eachKey, "parentKey")
    if parentKey and parentKey ~= "" then
      commandsRun = commandsRun + 1
      if call("SISMEMBER", parentKey .. ":dependencies", eachKey) == 1 then
        return nil -- its parent, which waits for it still, may go on without it
      end
    end
  end
  return ids, aged
end

local function remove(ids)
  local keys = {}
  for _, each in ipairs(ids) do
    for _, suffix in ipairs({"", ":logs", ":dependencies", ":processed", ":failed", ":unsuccessful"}) do
      keys[#keys + 1] = ARGV[7] .. each .. suffix
    end
  end
  commandsRun = commandsRun + 1
  call("DEL", unpack(keys))
end

-- Whether we know everything that is to be done. This writes nothing.
local function isOrdinary()
  local token = ARGV[10]
  if not token then
    return false
  elseif ARGV[13] == "1" then
    local opts = cmsgpack.unpack(ARGV[8])
    if opts["limiter"] or opts["maxMetricsSize"] ~= "" then
      return false
    end
    keep = opts["keepJobs"]
  end
  commandsRun = 1
  meta = call("HMGET", KEYS[9], "paused", "concurrency", "max", "opts.maxLenEvents")
  local mostEvents = meta[4]
  if meta[3] or meta[2] and not tonumber(meta[2]) or not mostEvents or mostEvents == "0"
      or not isCount(mostEvents) then
    return false
  end
  commandsRun = 2
  job = call("HMGET", key, "timestamp", "atm", "parentKey", "parent", "deid")
  local parentKey = job[3]
  if not job[1] or job[2] and not isCount(job[2]) or job[4] and not parentKey or job[5] then
    return false
  end
  -- One command tells whether the job has children (1 or 2) and whether any job is delayed (3).
  local delayed = KEYS[7]
  commandsRun = 3
  local found = call("EXISTS", key .. ":dependencies", key .. ":unsuccessful", delayed, delayed, delayed)
  if found % 3 > 0 then
    return false
  end
  if parentKey == "" then
    return false
  elseif parentKey then
    commandsRun = commandsRun + 1
    if call("SCARD", parentKey .. ":dependencies") < 2 then
      return false
    end
  end
  if hasNext and found > 0 then
    commandsRun = commandsRun + 1
    due = tonumber(call("ZRANGE", delayed, 0, 0, "WITHSCORES")[2])
    if due < (now + 1) * 0x1000 then
      return false
    end
  end
  commandsRun = commandsRun + 1
  if call("GET", key .. ":lock") ~= token then
    return false
  end
  if keep then
    old, tooOld = outlived()
    return old ~= nil
  end
  return true
end

local function completeOrdinarily()
  local parentKey, mostEvents = job[3], meta[4]
  commandsRun = commandsRun + 3
  call("DEL", key .. ":lock")
  call("SREM", KEYS[5], id)
  if call("LREM", KEYS[2], -1, id) < 1 then
    return -3
  end
  if parentKey then
    commandsRun = commandsRun + 1
    if call("SREM", parentKey .. ":dependencies", key) == 1 then
      commandsRun = commandsRun + 1
      call("HSET", parentKey .. ":processed", key, ARGV[4])
    end
  end
  if keep and keep["count"] == 0 then
    remove({id})
  else
    local added = tryCall("ZADD", KEYS[11], now, id)
    if type(added) == "table" then
      -- The set is none. This is how BullMQ's script stops; whoever mends the job knows that state.
      call("XTRIM", KEYS[4], "MAXLEN", "~", mostEvents)
      call("HINCRBY", key, "atm", 1)
      return added
    end
    call("HSET", key, "atm", (job[2] or 0) + 1, ARGV[3], ARGV[4], "finishedOn", now)
    commandsRun = commandsRun + 2
    if added == 0 and old and #old > tooOld then
      table.remove(old, 1) -- this one, of an id that was there, brings them to no more
    end
    if old and old[1] then
      remove(old)
      call("ZREM", KEYS[11], unpack(old))
      commandsRun = commandsRun + 1
    end
  end
  -- BullMQ trims the stream by itself before it adds to it, which leaves the same events.
  call("XADD", KEYS[4], "MAXLEN", "~", mostEvents + 1, "*", "event", "completed", "jobId", id,
    ARGV[3], ARGV[4], "prev", "active")
  commandsRun = commandsRun + 1
  if hasNext then
    local answer = startNextJob(KEYS[14], ARGV[7], now, ARGV[10], ARGV[11],
      ARGV[12] ~= "" and ARGV[12], meta[1], meta[2])
    if answer then
      return answer
    elseif answer == false or due then
      return {0, 0, 0, answer == nil and due / 0x1000 or 0}
    end
  end
  commandsRun = commandsRun + 1
  if call("EXISTS", KEYS[1], KEYS[2], KEYS[3]) == 0 then
    call("XADD", KEYS[4], "*", "event", "drained")
    commandsRun = commandsRun + 1
  end
  return 0
end
-- Where a key is of another type, BullMQ's script is to stop as it does.
local isRead, isOurs = pcall(isOrdinary)
if isRead and isOurs then
  return completeOrdinarily()
end
--- @include "countCalls"
--- @include "moveToFinished"
