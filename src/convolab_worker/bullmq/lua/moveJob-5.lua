--[[
  Moves one job to another queue, whole or not at all: its place, its hash, its log rows and what
  deduplicates it.

    KEYS[1] the list or set that the job stands in
    KEYS[2] the same of the other queue
    KEYS[3] the job's hash
    KEYS[4] its hash in the other queue, under its own id
    KEYS[5] the same under the id that it gets where its own is taken

    ARGV[1] the state: wait, paused, prioritized, delayed or failed
    ARGV[2] the job's id
    ARGV[3] the id that it gets where its own is taken
    ARGV[4] the queue's key prefix, such as bull:audio-generation:
    ARGV[5] the other queue's
    ARGV[6] "1" to move it, "0" to tell what would happen
    ARGV[7] the queue and the job's id, which a job that has been started keeps as movedFrom

  Answers {what, name, id}: what is "moved", or why the job stays.
]]
local rcall = redis.call
local state, id, otherId = ARGV[1], ARGV[2], ARGV[3]
local from, to = ARGV[4], ARGV[5]
local job, target, newId = KEYS[3], KEYS[4], id
local isList = state == "wait" or state == "paused"

-- What is asked first changes nothing.
local fields = rcall("HMGET", job, "name", "parentKey", "rjk", "deid", "priority", "ats")
local name = fields[1]
if isList then
  -- Searched from the end, where the oldest stand, which move first.
  if not rcall("LPOS", KEYS[1], id, "RANK", -1) then return {"gone", name or "", id} end
elseif not rcall("ZSCORE", KEYS[1], id) then
  return {"gone", name or "", id}
end
if not name then return {"no data", "", id} end
if rcall("EXISTS", job .. ":lock") == 1 then return {"locked", name, id} end
if fields[2] then return {"parent", name, id} end
if rcall("EXISTS", job .. ":dependencies", job .. ":processed", job .. ":failed",
    job .. ":unsuccessful") > 0 then
  return {"children", name, id}
end
if fields[3] or string.sub(id, 1, 7) == "repeat:" then return {"scheduler", name, id} end
if rcall("EXISTS", target) == 1 then
  target, newId = KEYS[5], otherId
  if rcall("EXISTS", target) == 1 then return {"taken", name, id} end
end
if ARGV[6] ~= "1" then return {"moved", name, newId} end

-- The first write is one that a full server refuses: then nothing has been done.
if isList then
  rcall("LPUSH", KEYS[2], newId)
elseif state == "prioritized" then
  local turn = rcall("INCR", to .. "pc")
  local priority = tonumber(fields[5]) or 0
  rcall("ZADD", KEYS[2], priority * 0x100000000 + turn % 0x100000000, newId)
else
  rcall("ZADD", KEYS[2], rcall("ZSCORE", KEYS[1], id), newId)
end
rcall("RENAME", job, target)
-- The keys of its steps, which a handler may have given away, are made of what it was called then.
if fields[6] then rcall("HSETNX", target, "movedFrom", ARGV[7]) end
if rcall("EXISTS", job .. ":logs") == 1 then rcall("RENAME", job .. ":logs", target .. ":logs") end
if isList then rcall("LREM", KEYS[1], -1, id) else rcall("ZREM", KEYS[1], id) end
rcall("SREM", from .. "stalled", id)

-- Node's own ids are numbers that it counts up: it must not come to this one again. A longer number
-- is not a count, and INCR would refuse to go on from it.
local number = #newId <= 15 and string.match(newId, "^%d+$") and tonumber(newId)
if number and number > (tonumber(rcall("GET", to .. "id") or "0") or 0) then
  rcall("SET", to .. "id", newId)
end

if fields[4] then
  local mine, theirs = from .. "de:" .. fields[4], to .. "de:" .. fields[4]
  if rcall("GET", mine) == id then
    local left = rcall("PTTL", mine)
    if rcall("EXISTS", theirs) == 0 then
      if left > 0 then rcall("SET", theirs, newId, "PX", left) else rcall("SET", theirs, newId) end
    end
    rcall("DEL", mine)
  end
end

local meta = rcall("HMGET", to .. "meta", "paused", "concurrency", "opts.maxLenEvents")
local isMaxed = meta[2] and rcall("LLEN", to .. "active") >= tonumber(meta[2])
local most = meta[3] or 10000
rcall("XADD", to .. "events", "MAXLEN", "~", most, "*", "event", "added", "jobId", newId,
  "name", name)
if state == "delayed" then
  local first = rcall("ZRANGE", KEYS[2], 0, 0, "WITHSCORES")
  rcall("ZADD", to .. "marker", math.floor(tonumber(first[2]) / 0x1000), "1")
  local due = math.floor(tonumber(rcall("ZSCORE", KEYS[2], newId)) / 0x1000)
  rcall("XADD", to .. "events", "MAXLEN", "~", most, "*", "event", "delayed", "jobId", newId,
    "delay", string.format("%.0f", due))
elseif state ~= "failed" then
  if not meta[1] and not isMaxed then rcall("ZADD", to .. "marker", 0, "0") end
  rcall("XADD", to .. "events", "MAXLEN", "~", most, "*", "event", "waiting", "jobId", newId)
end
local mostHere = rcall("HGET", from .. "meta", "opts.maxLenEvents") or 10000
rcall("XADD", from .. "events", "MAXLEN", "~", mostHere, "*", "event", "removed", "jobId", id,
  "prev", state)
return {"moved", name, newId}
