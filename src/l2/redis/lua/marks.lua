-- What followers of the database leave in the directory. These are marks, with
-- scores that are not positive: no beat's reply has them among its slots, and
-- processes of versions that know no follower pass over them.
--
--   term       minus the number of the term of the follower that leads
--   round      minus the number of its last round in that term
--   low        minus the position before which everything is announced
--   high       minus the position from which on nothing is announced
--   history    minus the number of the history that the positions are of
--   followed   minus the number of the last invalidation of all that is followed
--   used       minus one if a process in use has sent a beat since the last round
local said = redis.call('ZMSCORE', directory, 'term', 'round', 'low', 'high', 'history', 'followed', 'used')

local function mark(at)
    if said[at] then return 0 - tonumber(said[at]) end
    return 0
end

local term, round, low, high, history = mark(1), mark(2), mark(3), mark(4), mark(5)
local followed, used = mark(6), mark(7)
