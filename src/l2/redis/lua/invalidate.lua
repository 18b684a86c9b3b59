-- ARGV[6] channel   ARGV[7] how many slots have a number in common, at most
-- ARGV[8…] slots
--
-- Replies with epoch and seq.
invalidate(ARGV[6], tonumber(ARGV[7]), 8)
return { text(epoch), text(seq) }
