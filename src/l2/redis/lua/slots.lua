-- Invalidates the slots ARGV[first…] and publishes that. A notice is
-- "i epoch seq slot slot…".
local function invalidate(channel, most, first)
    while first <= #ARGV do
        -- Every so many slots have a number and a notice of their own, so that the
        -- pages of a beat can end between them.
        local last = math.min(first + most - 1, #ARGV)
        seq = seq + 1
        local number = text(seq)
        local pairs = { text(-seq), 'seq' }
        for at = first, last do
            -- The slot of all that is followed is a mark: earlier versions know no
            -- slot of this number, and would refuse a beat's reply that has it.
            local is_mark = ARGV[at] == '65537'
            pairs[#pairs + 1] = is_mark and text(-seq) or number
            pairs[#pairs + 1] = is_mark and 'followed' or ARGV[at]
        end
        redis.call('ZADD', directory, unpack(pairs))
        -- A hint: without the right to publish, the invalidation is in force
        -- nevertheless, and beats bring it.
        redis.pcall('PUBLISH', channel, 'i ' .. text(epoch) .. ' ' .. number .. ' ' .. table.concat(ARGV, ' ', first, last))
        first = last + 1
    end
end
