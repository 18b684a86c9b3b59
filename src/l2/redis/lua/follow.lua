-- A round of a follower ends.
--
-- ARGV[6] channel   ARGV[7] how many slots have a number in common, at most
-- ARGV[8] the epoch of its term   ARGV[9] term   ARGV[10] round
-- ARGV[11] low   ARGV[12] high   ARGV[13…] slots of what it announces
--
-- Replies with epoch, seq, 1 if the round stands, else 0, and 1 if a process in
-- use has sent a beat since the last round, else 0.
local ours = tonumber(ARGV[8]) == epoch and tonumber(ARGV[9]) == term and tonumber(ARGV[10]) > round
-- Otherwise another one leads, and announces the same by itself.
if ours then
    -- The slots before the number, which says that they are there: a full memory
    -- may end the script between the two.
    invalidate(ARGV[6], tonumber(ARGV[7]), 13)
    low, high = math.max(low, tonumber(ARGV[11])), math.max(high, tonumber(ARGV[12]))
    redis.call('ZADD', directory, '-' .. ARGV[10], 'round', text(0 - low), 'low', text(0 - high), 'high', '0', 'used')
end
return { text(epoch), text(seq), ours and '1' or '0', text(used) }
