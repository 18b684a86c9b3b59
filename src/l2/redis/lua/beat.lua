-- ARGV[6] how many slots to reply with, at most
-- ARGV[7] 1 if the caller is in use, else 0
--
-- Replies with epoch, seq, the number up to which the slots are complete, and an
-- array of slots, each followed by its number. The slots are those above what
-- the caller has applied. If there are more of them than it wants, it gets those
-- with the lowest numbers and asks for the next page. If there are marks of a
-- follower, an array of them is the fifth element.
--
-- PERSIST changes nothing, but it is a write: a replica refuses it, and so
-- does a master that has lost its replicas and is configured to require them.
-- It needs no memory.
redis.call('PERSIST', directory)
local most, above, upto = tonumber(ARGV[6]), 0, seq
if known == epoch then above = applied end
local slots = redis.call('ZRANGEBYSCORE', directory, '(' .. text(above), '+inf', 'WITHSCORES', 'LIMIT', 0, most + 1)
if #slots > 2 * most then
    -- A page ends between two numbers: the caller asks for what is above the
    -- last one, so all slots of that one have to be there.
    local beyond, last = slots[#slots], #slots
    while last > 0 and slots[last] == beyond do
        slots[last], slots[last - 1] = nil, nil
        last = last - 2
    end
    if last > 0 then
        upto = tonumber(slots[last])
    else
        -- One number has more slots than a page.
        slots = redis.call('ZRANGEBYSCORE', directory, beyond, beyond, 'WITHSCORES')
        upto = tonumber(beyond)
    end
end
local reply = { text(epoch), text(seq), text(upto), slots }
if term > 0 or followed > 0 then
    reply[5] = { text(term), text(round), text(low), text(high), text(history), text(followed) }
    -- A hint: the follower has rounds less often while nobody waits for them.
    if ARGV[7] == '1' and term > 0 and used == 0 then redis.pcall('ZADD', directory, '-1', 'used') end
end
return reply
