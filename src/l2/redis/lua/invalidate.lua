-- ARGV[4] channel   ARGV[5…] slots
--
-- Replies with epoch and seq. The notice is "i epoch seq slot slot…".
seq = seq + 1
local number = text(seq)
redis.call('ZADD', directory, text(-seq), 'seq')
-- In chunks: a call accepts a few thousand arguments.
for first = 5, #ARGV, 1000 do
    local pairs = {}
    for at = first, math.min(first + 999, #ARGV) do
        pairs[#pairs + 1] = number
        pairs[#pairs + 1] = ARGV[at]
    end
    redis.call('ZADD', directory, unpack(pairs))
end
redis.call('PUBLISH', ARGV[4], 'i ' .. text(epoch) .. ' ' .. number .. ' ' .. table.concat(ARGV, ' ', 5))
return { text(epoch), number }
