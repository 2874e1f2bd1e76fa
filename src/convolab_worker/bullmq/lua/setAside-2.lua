--[[
  Renames what another program has written over a job's hash, and gives the job a hash again.

    KEYS[1] the job's hash
    KEYS[2] what the other program's key is called from now on
    ARGV[1] and all that follow: fields and values of the new hash

  Answers the type of the other program's key; nothing if it is a hash, or no key is there.
]]
local kind = redis.call("TYPE", KEYS[1]).ok
if kind == "hash" or kind == "none" then return false end
redis.call("RENAME", KEYS[1], KEYS[2])
redis.call("HSET", KEYS[1], unpack(ARGV))
return kind
