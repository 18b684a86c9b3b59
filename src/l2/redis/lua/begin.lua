-- A follower begins to lead.
--
-- ARGV[6] channel   ARGV[7] its history   ARGV[8] where its slot begins
-- ARGV[9] low   ARGV[10] high
--
-- Replies with epoch, seq, the number of the term, and the position that it goes
-- on from, or '' if all that is followed was invalidated.
local theirs, start = tonumber(ARGV[7]), tonumber(ARGV[8])
local goes_on = term > 0 and history == theirs and low >= start
local from = ''
if goes_on then
    from = text(low)
else
    -- Between the end of the last leader's announcements and the beginning of
    -- this one's, something may have been committed that nobody announces.
    local their_low, their_high = tonumber(ARGV[9]), tonumber(ARGV[10])
    if history == theirs then
        low, high = math.max(low, their_low), math.max(high, their_high)
    else
        -- Positions of another history are compared with none of this one.
        low, high, history = their_low, their_high, theirs
    end
    seq = seq + 1
    redis.call('ZADD', directory, text(-seq), 'seq', text(-seq), 'followed')
    redis.pcall('PUBLISH', ARGV[6], 'i ' .. text(epoch) .. ' ' .. text(seq) .. ' 65537')
end
term = term + 1
-- Subtracted, for that has no minus zero.
redis.call('ZADD', directory, text(-term), 'term', '0', 'round', text(0 - low), 'low', text(0 - high), 'high', text(-history), 'history')
return { text(epoch), text(seq), text(term), from }
