-- ARGV[2] epoch   ARGV[3] asof   ARGV[4] need   ARGV[5] token of the entry that
-- the requester rejects, or ''   ARGV[6] the lease's time in ms   ARGV[7] the lease
-- ARGV[8] '1' if the rejected entry is invalid, whatever its stamp says
-- ARGV[9] until when the requester waits for the reply, in ms since 1970, or 0
--
-- Replies 'granted', 'entry', 'late', or the remaining ms of another's lease.
local epoch, need = tonumber(ARGV[2]), tonumber(ARGV[4])
local entry_epoch, entry_asof, entry_token, entry_parts = stored()
-- Damaged or forged. If it stayed, a stamp of the far future would block all
-- loads until it expires.
if entry_epoch and ARGV[8] == '1' and entry_token == ARGV[5] then
    redis.call('DEL', KEYS[1])
    drop(entry_token, entry_parts)
    entry_epoch = nil
end
if entry_epoch == epoch and entry_asof >= need and entry_token ~= ARGV[5] then
    return 'entry'
end
-- The requester does not know of the new epoch: the result of its load would
-- be stale at once. It learns of the epoch when it reads the entry.
if entry_epoch and entry_epoch > epoch then return 'entry' end
if ours then return 'granted' end
local waiting = '0'
if lease then
    waiting = lease:sub(33)
    local remaining = redis.call('PTTL', KEYS[2])
    local lease_epoch = number(lease, 17)
    -- A load of an older epoch, or from before an invalidation, is useless to
    -- the requester: it takes over the lease and its waiters.
    if remaining > 0
        and (lease_epoch > epoch or lease_epoch == epoch and number(lease, 25) >= need) then
        redis.call('SETRANGE', KEYS[2], 32, '1')
        return remaining
    end
end
-- A server that was frozen executes what it was sent before. Nobody would hold
-- this lease, and readers would wait for its end.
local latest = tonumber(ARGV[9])
if latest > 0 then
    local time = redis.call('TIME')
    if tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) > latest then
        return 'late'
    end
end
redis.call('SET', KEYS[2], ARGV[7] .. waiting, 'PX', ARGV[6])
return 'granted'
