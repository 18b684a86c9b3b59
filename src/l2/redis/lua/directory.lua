-- The common beginning of all scripts on the directory. The directory is one
-- sorted set. Its members are slots, each scored by the number of its last
-- invalidation, and these marks, whose scores are not positive:
--
--   epoch       minus the epoch
--   seq         minus the number of the last invalidation
--   at:<id>     zero; the replication id of the server that it belongs to
--
-- KEYS[1] directory
-- ARGV[1] the caller's epoch   ARGV[2] the seq that it has applied
-- ARGV[3] 24 random bits
-- ARGV[4] how many replicas the caller demands   ARGV[5] their lag in seconds, at most
local directory, known, applied = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])

local function text(number)
    return string.format('%.0f', number)
end

local info = redis.call('INFO', 'replication')
-- A master that was deposed and does not know it has lost its replicas: they
-- follow another one.
local replicas, lag, online = tonumber(ARGV[4]), tonumber(ARGV[5]), 0
for line in info:gmatch('slave%d+:([^\r\n]+)') do
    local behind = tonumber(line:match('lag=(%d+)'))
    if line:find('state=online', 1, true) and behind and behind <= lag then online = online + 1 end
end
if online < replicas then
    return redis.error_reply(string.format('NOREPLICAS %d of the demanded %d replicas are online and lag by %ds at most', online, replicas, lag))
end

-- A server that was restarted or promoted has another id, and may have lost
-- invalidations that its predecessor had acknowledged.
local id = info:match('master_replid:(%x+)')
local marks = redis.call('ZMSCORE', directory, 'epoch', 'seq', 'at:' .. id)
local epoch, seq = 0, 0
-- Subtracted instead of negated: minus zero would be written with its sign.
if marks[1] then epoch = 0 - tonumber(marks[1]) end
if marks[2] then seq = 0 - tonumber(marks[2]) end
if not (marks[1] and marks[2] and marks[3]) or known > epoch or (known == epoch and applied > seq) then
    -- Start a new lineage. Its epoch is larger than all known epochs, and
    -- differs from one that another server began with the same count.
    local count = math.floor(math.max(known, epoch) / 16777216) + 1
    epoch, seq = count * 16777216 + tonumber(ARGV[3]) % 16777216, 0
    redis.call('DEL', directory)
    redis.call('ZADD', directory, text(-epoch), 'epoch', '0', 'seq', '0', 'at:' .. id)
end
