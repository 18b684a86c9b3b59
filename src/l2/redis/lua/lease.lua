-- ARGV[2] epoch   ARGV[3] asof   ARGV[4] need   ARGV[5] token of the entry that
-- is not wanted, or ''   ARGV[6] the lease's time in ms   ARGV[7] the lease
-- ARGV[8] '1' if that entry is no entry to the asker, whatever its stamp says
--
-- Replies 'granted', 'entry', or how long the other's lease lasts.
local epoch, need = tonumber(ARGV[2]), tonumber(ARGV[4])
local entry_epoch, entry_asof, entry_token = stored()
-- Damaged or forged. Left there, a stamp of the far future would keep all others
-- out for as long as it lives.
if entry_epoch and ARGV[8] == '1' and entry_token == ARGV[5] then
    redis.call('DEL', KEYS[1])
    entry_epoch = nil
end
if entry_epoch == epoch and entry_asof >= need and entry_token ~= ARGV[5] then
    return 'entry'
end
-- The asker has not heard of a new epoch: what it loads would be dead. Whoever
-- reads the entry finds out.
if entry_epoch and entry_epoch > epoch then return 'entry' end
if ours then return 'granted' end
local waiting = '0'
if lease then
    waiting = lease:sub(33)
    local remaining = redis.call('PTTL', KEYS[2])
    local lease_epoch = number(lease, 17)
    -- A load of an older epoch, or from before an invalidation, is of no use to
    -- the asker: it takes the lease over, and with it those who wait.
    if remaining > 0
        and (lease_epoch > epoch or lease_epoch == epoch and number(lease, 25) >= need) then
        redis.call('SETRANGE', KEYS[2], 32, '1')
        return remaining
    end
end
redis.call('SET', KEYS[2], ARGV[7] .. waiting, 'PX', ARGV[6])
return 'granted'
