-- The common beginning of all scripts on an entry and its lease.
--
-- KEYS[1] entry   KEYS[2] lease   ARGV[1] token, 16 bytes
--
-- A lease is token (16) ‖ epoch (8) ‖ asof (8) ‖ '1' if a process waits, else
-- '0'. Here asof is the seq that the load began at. Numbers are big-endian and
-- below 2^53. They are compared as numbers, because Lua compares strings by
-- the locale.
local token = ARGV[1]

local function number(bytes, at)
    local value = 0
    for index = at, at + 7 do
        value = value * 256 + bytes:byte(index)
    end
    return value
end

-- A value of another type counts as empty.
local function get(key, first, last)
    local value = redis.pcall('GETRANGE', key, first, last)
    if type(value) ~= 'string' then return '' end
    return value
end

-- Read one byte more than a lease has: a longer value is not a lease.
local lease = get(KEYS[2], 0, 33)
if #lease ~= 33 then lease = nil end
local ours = lease and lease:sub(1, 16) == token

-- The stored entry's epoch, seq, token and number of parts, if it is an entry;
-- see entry.rs. A whole entry has no parts.
local function stored()
    local head = get(KEYS[1], 0, 55)
    local format = head:sub(1, 5)
    if #head < 56 or format ~= 'LRDR\3' and format ~= 'LRDR\4' and format ~= 'LRDR\5' then return nil end
    local parts = 0
    if format ~= 'LRDR\3' then parts = head:byte(8) end
    return number(head, 25), number(head, 33), head:sub(41, 56), parts
end

-- The name of a part of the large entry that this token's load made.
local function part(of, index)
    local hex = of:gsub('.', function(byte) return string.format('%02x', byte:byte()) end)
    return KEYS[1] .. ':' .. hex .. ':' .. index
end

local function drop(of, parts)
    for index = 0, parts - 1 do
        redis.call('DEL', part(of, index))
    end
end

-- Notifies the waiters. A lost lease (expired or evicted) took with it the
-- record of whether there are any.
local function tell(channel, done, key)
    if not lease or lease:sub(33) == '1' then
        -- A hint: without the right to publish, what was written stays.
        redis.pcall('PUBLISH', channel, 'd' .. done .. key)
    end
end
