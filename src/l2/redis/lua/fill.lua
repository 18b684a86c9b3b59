-- ARGV[2] epoch   ARGV[3] asof   ARGV[4] when the entry ends, in ms since 1970
-- ARGV[5] channel   ARGV[6] outcome   ARGV[7] key, 32 bytes   ARGV[8] entry
-- ARGV[9] number of its parts, which are stored already; 0 if it is whole
--
-- Replies 1 if the entry was written, else 0.
local parts = tonumber(ARGV[9])
if lease and not ours then
    drop(token, parts)
    return 0
end
local epoch, asof, ends = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local write = ends > now
local entry_epoch, entry_asof, entry_token, entry_parts = stored()
if write and entry_epoch then
    -- The lease may have ended meanwhile, or may have been granted to a
    -- process that was behind. A stored entry must not be replaced by an older
    -- one.
    if epoch ~= entry_epoch then
        write = epoch > entry_epoch
    elseif asof ~= entry_asof then
        write = asof > entry_asof
    else
        write = ours or ends > now + redis.call('PTTL', KEYS[1])
    end
end
-- Until now the parts had a short life, in case that their writer is killed. One
-- that is gone (evicted) would make the entry useless.
for index = 0, parts - 1 do
    write = write and redis.call('PEXPIRE', part(token, index), ends - now) == 1
end
if write then
    redis.call('SET', KEYS[1], ARGV[8], 'PXAT', ARGV[4])
    if entry_epoch and entry_token ~= token then drop(entry_token, entry_parts) end
elseif entry_token ~= token then
    drop(token, parts)
end
if ours then redis.call('DEL', KEYS[2]) end
tell(ARGV[5], ARGV[6], ARGV[7])
return write and 1 or 0
