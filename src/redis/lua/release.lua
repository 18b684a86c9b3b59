-- ARGV[2] channel   ARGV[3] how it came out   ARGV[4] key, 32 bytes
if not ours then return 0 end
redis.call('DEL', KEYS[2])
tell(ARGV[2], ARGV[3], ARGV[4])
return 1
