-- One hash holds the snapshots of the processes of a namespace, a field for
-- each. The name of a field is its expiry by this server's clock and the
-- process: `<milliseconds since 1970>:<id>`.
--
-- KEYS[1] hash
-- ARGV[1] id   ARGV[2] its lifetime in milliseconds   ARGV[3] snapshot
-- Without the last two the snapshot is removed.
local id, lasts = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local latest = 0
if lasts then latest = now + lasts end

-- The names alone show which fields have expired and which are foreign.
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local ends, whose = field:match('^(%d+):(%x+)$')
    ends = tonumber(ends)
    if not ends or ends <= now or whose == id then
        redis.call('HDEL', KEYS[1], field)
    else
        latest = math.max(latest, ends)
    end
end
if lasts then
    redis.call('HSET', KEYS[1], string.format('%.0f:%s', now + lasts, id), ARGV[3])
end
if latest > now then
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', latest - now))
end
return 1
