--[[
  Moves a job to waiting-children as BullMQ's moveToWaitingChildren does, whose KEYS and ARGV these
  are, unless a child has failed whose failure lets the job go on at once. BullMQ tells that only to
  a parent that waits already; the answer is then 1, as where nothing is pending.

    KEYS[8] the job's hash of children that failed without failing it
    ARGV    the last one: the keys of such children, as a msgpack array
]]
local children = cmsgpack.unpack(table.remove(ARGV))
for first = 1, #children, 1000 do
  local last = math.min(first + 999, #children)
  for _, reason in ipairs(redis.call("HMGET", KEYS[8], unpack(children, first, last))) do
    if reason then
      return 1
    end
  end
end
--- @include "moveToWaitingChildren"
