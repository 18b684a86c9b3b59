-- ARGV[2] channel   ARGV[3] outcome   ARGV[4] key, 32 bytes
if lease and not ours then return 0 end
if ours then redis.call('DEL', KEYS[2]) end
tell(ARGV[2], ARGV[3], ARGV[4])
return ours and 1 or 0
