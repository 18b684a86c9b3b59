//! The scripts of a follower, and what a beat's reply tells of it.

use redis::Value;

use super::{RedisStore, number};
use crate::currency::{Position, Round};
use crate::l2::follow::{Leader, RoundEnd, RoundReply, TermReply, TermStart};
use crate::l2::{Beat, SLOTS_PER_NUMBER, StoreError, WAITED_FOR};
use crate::value::lsn::{History, Lsn};
use crate::value::tag::TagSlot;

impl RedisStore {
    pub(super) async fn begin_term(
        &self,
        known: Position,
        TermStart { history, start, low, high }: &TermStart,
    ) -> Result<TermReply, StoreError> {
        let mut call = self.scripts.begin.guarded_call(&[self.names.directory()]);
        self.head(&mut call, known);
        call.arg(self.names.channel());
        call.arg(history.number()).arg(start.number()).arg(low.number()).arg(high.number());
        // If it is carried out twice, the second term is the one that stands.
        let (reply, _) = self.link.patient_call(&call, WAITED_FOR).await?;
        begun(&reply).ok_or(StoreError::Unavailable)
    }

    pub(super) async fn end_round(
        &self,
        known: Position,
        RoundEnd { epoch, round, low, high }: &RoundEnd,
        slots: &[TagSlot],
    ) -> Result<RoundReply, StoreError> {
        let mut call = self.scripts.follow.guarded_call(&[self.names.directory()]);
        self.head(&mut call, known);
        call.arg(self.names.channel()).arg(SLOTS_PER_NUMBER);
        call.arg(epoch).arg(round.term).arg(round.number).arg(low.number()).arg(high.number());
        for slot in slots {
            call.arg(slot.index());
        }
        // Once: the number of a round that is repeated is refused, as if another follower led.
        let (reply, _) = self.link.call_within(&call, WAITED_FOR).await?;
        ended(&reply).ok_or(StoreError::Unavailable)
    }
}

fn position(epoch: &Value, seq: &Value) -> Option<Position> {
    Some(Position { epoch: number(epoch)?, seq: number(seq)? })
}

fn begun(reply: &Value) -> Option<TermReply> {
    let Value::Array(reply) = reply else { return None };
    let [epoch, seq, term, from] = reply.as_slice() else { return None };
    let goes_on_from = match from {
        Value::BulkString(none) if none.is_empty() => None,
        from => Some(Lsn::of(number(from)?)),
    };
    Some(TermReply { at: position(epoch, seq)?, term: number(term)?, goes_on_from })
}

fn ended(reply: &Value) -> Option<RoundReply> {
    let Value::Array(reply) = reply else { return None };
    let [epoch, seq, is_accepted, is_used] = reply.as_slice() else { return None };
    let (is_accepted, is_used) = (number(is_accepted)? == 1, number(is_used)? == 1);
    Some(RoundReply { at: position(epoch, seq)?, is_accepted, is_used })
}

pub(super) fn beat(reply: &Value, connection: u64) -> Option<Beat> {
    let Value::Array(reply) = reply else { return None };
    let (head, marks) = reply.split_first_chunk()?;
    let [epoch, seq, upto, Value::Array(slots)] = head else { return None };
    let at = position(epoch, upto)?;
    let slots = slots.chunks_exact(2).map(|pair| {
        let [slot, seq] = pair else { return None };
        Some((TagSlot::numbered(number(slot)?)?, number(seq)?))
    });
    let mut slots = slots.collect::<Option<Vec<_>>>()?;
    let mut leader = None;
    if let [Value::Array(marks)] = marks {
        let marks = marks.iter().map(number).collect::<Option<Vec<_>>>()?;
        let [term, round, low, high, history, followed] = marks.try_into().ok()?;
        slots.extend((followed > 0).then_some((TagSlot::FOLLOWED, followed)));
        leader = (term > 0).then_some(Leader {
            round: Round { term, number: round },
            low: Lsn::of(low),
            high: Lsn::of(high),
            history: History::numbered(history),
        });
    }
    Some(Beat { at, more: at.seq < number(seq)?, slots, leader, connection })
}
