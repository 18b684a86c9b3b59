-- ARGV[6] channel   ARGV[7] how many slots have a number in common, at most
-- ARGV[8…] slots
--
-- Replies with epoch and seq. A notice is "i epoch seq slot slot…".
local most, first = tonumber(ARGV[7]), 8
repeat
    -- Every so many slots have a number and a notice of their own, so that the
    -- pages of a beat can end between them.
    local last = math.min(first + most - 1, #ARGV)
    seq = seq + 1
    local number = text(seq)
    local pairs = { text(-seq), 'seq' }
    for at = first, last do
        pairs[#pairs + 1] = number
        pairs[#pairs + 1] = ARGV[at]
    end
    redis.call('ZADD', directory, unpack(pairs))
    -- A hint: without the right to publish, the invalidation is in force
    -- nevertheless, and beats bring it.
    redis.pcall('PUBLISH', ARGV[6], 'i ' .. text(epoch) .. ' ' .. number .. ' ' .. table.concat(ARGV, ' ', first, last))
    first = last + 1
until first > #ARGV
return { text(epoch), text(seq) }
