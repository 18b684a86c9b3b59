-- Replies with epoch, seq, and an array of slots, each followed by its number.
--
-- PERSIST changes nothing, but it is a write: a replica refuses it, and so
-- does a master that has lost its replicas and is configured to require them.
-- It needs no memory.
redis.call('PERSIST', directory)
local above = 0
if known == epoch then above = applied end
local cells = redis.call('ZRANGEBYSCORE', directory, '(' .. text(above), '+inf', 'WITHSCORES')
return { text(epoch), text(seq), cells }
