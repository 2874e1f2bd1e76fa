--[[
  Records with a parent why a child of it has failed, unless the parent is gone.

    KEYS[1] the parent's hash
    KEYS[2] the parent's hash of children that failed without failing it
    ARGV[1] the child's key
    ARGV[2] why it failed
]]
if redis.call("EXISTS", KEYS[1]) == 1 then redis.call("HSET", KEYS[2], ARGV[1], ARGV[2]) end
