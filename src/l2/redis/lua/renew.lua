-- ARGV[2] the lease's time in ms
if ours then return redis.call('PEXPIRE', KEYS[2], ARGV[2]) end
return 0
