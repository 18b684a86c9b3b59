//! [`Inspection`]: what to look for under one key, judged as the cache judges it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};

use super::directory::Directory;
use super::entry::{
    EntryCodec, EntryDetails, EntryHeader, EntryReport, LeaseDetails, Seal, SlotState,
};
use super::key::{KeyBuilder, ResultKey};
use super::redis::{Redis, command};
use super::verdict::Verdict;
use super::{Error, ErrorKind};
use crate::cache::judge::{self, Judgement};
use crate::clock::{Clock, Instant};
use crate::currency::{Currency, Position};
use crate::l2::entry::{self, Claim, Content, FORMAT, Header, Refusal};
use crate::l2::redis::batch::milliseconds;
use crate::policy::Policy;
use crate::value::codec::Codec;
use crate::value::key::MacKey;
use crate::value::tag::{Tag, TagSlot};

/// What to inspect, and what is known of it.
#[derive(Clone)]
#[must_use = "an inspection does nothing until `Redis::inspect` is called"]
pub struct Inspection {
    key: ResultKey,
    secret: Option<MacKey>,
    names: Vec<(TagSlot, String)>,
}

impl Inspection {
    /// Inspects the result with this key.
    pub fn of_key(key: ResultKey) -> Inspection {
        Inspection { key, secret: None, names: vec![] }
    }

    /// Inspects the result of a call, and names the slot of its query.
    pub fn of_query(query: &KeyBuilder) -> Inspection {
        let names = vec![(query.query_slot(), "the query itself".to_owned())];
        Inspection { key: query.key(), secret: None, names }
    }

    /// The [`secret`](crate::QueryCacheBuilder::secret) of the cache, to check the MAC by.
    pub fn secret(mut self, secret: &[u8]) -> Inspection {
        self.secret = Some(MacKey::of_secret(secret));
        self
    }

    /// A tag that the result may depend on, to show its slot by name. May be called several times.
    pub fn tag(mut self, tag: impl Into<Tag>) -> Inspection {
        let tag = tag.into();
        self.names.push((tag.slot(), tag.as_str().to_owned()));
        self
    }
}

/// The body of a large entry, as far as it is there.
#[derive(Default)]
struct Parts {
    count: u8,
    missing: u8,
    bytes: Bytes,
}

/// What is under a key at one moment.
struct Found {
    /// `Err` holds what Redis replied to `GET` of another type.
    entry: Result<Option<Bytes>, String>,
    /// The time by the clock of Redis, in milliseconds since 1970.
    now: Option<u64>,
    lease: Option<LeaseDetails>,
}

impl Redis {
    /// Reports what Redis holds for one result, and whether it would be served.
    ///
    /// The entry is judged by the code that serves reads. It takes two round trips, and one more
    /// for each part of a large entry, and changes nothing. Processes may hold the result in their memory as well.
    ///
    /// # Errors
    ///
    /// Those of Redis to `GET`, `TIME`, `PTTL`, `INFO` and `ZMSCORE`.
    pub async fn inspect(&self, inspection: &Inspection) -> Result<EntryReport, Error> {
        let Inspection { key, secret, names } = inspection;
        let asked = Clock::system().now();
        let found = self.look(key).await?;
        let bytes = found.entry.as_ref().ok().and_then(Clone::clone);
        let claim = bytes.as_ref().and_then(entry::claim);
        let mut slots: Vec<TagSlot> = claim
            .iter()
            .flat_map(|claim| &claim.slots)
            .filter_map(|&slot| TagSlot::numbered(u64::from(slot)))
            .collect();
        slots.push(TagSlot::EVERYTHING);
        let (directory, invalidated) = self.directory_of(&slots).await?;
        let parts = match &claim {
            Some(claim) => self.parts_of(key, claim).await?,
            None => Parts::default(),
        };
        let seal = claim.as_ref().zip(bytes.as_ref()).map(|(claim, bytes)| {
            match entry::open(&key.0, bytes, secret.as_ref()) {
                Ok(opened) => match opened.content {
                    Content::Whole(_) => Ok(Seal::Holds),
                    Content::Elsewhere(body) => {
                        let token = opened.header.token;
                        let holds = body.matches(token, &parts.bytes, secret.as_ref());
                        if holds { Ok(Seal::Holds) } else { Err(Refusal::Damaged) }
                    }
                },
                Err(Refusal::Unauthentic) if claim.signed && secret.is_none() => {
                    Ok(Seal::Unchecked)
                }
                Err(refusal) => Err(refusal),
            }
        });
        let missing = parts.missing;
        let case = Case { found: &found, claim: claim.as_ref(), seal, missing, directory, asked };
        let verdict = case.verdict(&slots, &invalidated);
        let size = bytes.map_or(0, |bytes| bytes.len());
        let entry = claim.map(|claim| details(claim, size, parts, seal, found.now));
        Ok(EntryReport {
            key: *key,
            name: self.name_of_key(key),
            verdict,
            entry,
            slots: slots.iter().map(|slot| state(*slot, names, &invalidated)).collect(),
            directory,
            lease: found.lease,
        })
    }

    /// Reads the parts of a large entry, one after the other.
    async fn parts_of(&self, key: &ResultKey, claim: &Claim) -> Result<Parts, Error> {
        let (Some(header), Some(Content::Elsewhere(body))) = (&claim.header, &claim.content) else {
            return Ok(Parts::default());
        };
        let mut parts = Parts { count: body.parts(), ..Parts::default() };
        let mut bytes = vec![];
        for index in 0..body.parts() {
            let name = self.names().part(&key.0, header.token, index);
            match self.ask(&command(&["GET", &name])).await {
                Ok(Value::BulkString(part)) => bytes.extend(part),
                Ok(_) => parts.missing += 1,
                Err(error) if error.kind() == ErrorKind::Refused => parts.missing += 1,
                Err(error) => return Err(error),
            }
        }
        parts.bytes = bytes.into();
        Ok(parts)
    }

    async fn look(&self, key: &ResultKey) -> Result<Found, Error> {
        let (entry, lease) = (self.names().entry(&key.0), self.names().lease(&key.0));
        let mut all = Pipeline::with_capacity(4);
        all.add_command(command(&["TIME"])).add_command(command(&["GET", &entry]));
        all.add_command(command(&["PTTL", &lease])).add_command(command(&["GET", &lease]));
        let replies = self.ask_all(&all).await?;
        let [time, bytes, lease_life, lease] = replies.as_slice() else {
            return Err(Error::unexpected("four replies were expected"));
        };
        let entry = match bytes {
            Value::BulkString(bytes) => Ok(Some(Bytes::copy_from_slice(bytes))),
            Value::Nil => Ok(None),
            Value::ServerError(error) => {
                let error = Error::of(error.clone().into());
                if error.kind() != ErrorKind::Refused {
                    return Err(error);
                }
                Err(error.reply().to_owned())
            }
            _ => Err("something else".to_owned()),
        };
        Ok(Found { entry, now: milliseconds(time), lease: read_lease(lease, lease_life) })
    }
}

fn read_lease(lease: &Value, life: &Value) -> Option<LeaseDetails> {
    let Value::BulkString(lease) = lease else { return None };
    let lease: &[u8; 33] = lease.as_slice().try_into().ok()?;
    let number =
        |at: usize| u64::from_be_bytes(lease[at..at + 8].try_into().expect("eight bytes of 33"));
    let remaining = match life {
        Value::Int(millis) => u64::try_from(*millis).ok().map(Duration::from_millis),
        _ => None,
    };
    Some(LeaseDetails { epoch: number(16), seq: number(24), awaited: lease[32] == b'1', remaining })
}

/// All that a verdict rests on.
struct Case<'a> {
    found: &'a Found,
    claim: Option<&'a Claim>,
    seal: Option<Result<Seal, Refusal>>,
    /// The number of parts that are missing.
    missing: u8,
    directory: Directory,
    asked: Instant,
}

impl Case<'_> {
    /// In the order in which a lookup judges.
    fn verdict(&self, slots: &[TagSlot], invalidated: &BTreeMap<TagSlot, u64>) -> Verdict {
        let claim = match (&self.found.entry, self.claim) {
            (Err(reply), _) => return Verdict::OtherType(reply.clone()),
            (Ok(None), _) => {
                let loading = self.found.lease.map(|lease| lease.remaining.unwrap_or_default());
                return Verdict::Absent { loading };
            }
            (Ok(Some(_)), None) => return Verdict::Foreign,
            (Ok(Some(_)), Some(claim)) => claim,
        };
        let Some(header) = &claim.header else {
            return Verdict::OtherFormat { format: claim.format, reads: FORMAT };
        };
        if self.missing > 0 {
            return Verdict::Incomplete { missing: self.missing.into() };
        }
        if let Some(Err(refusal)) = self.seal {
            return refused(refusal, claim.signed);
        }
        let Some(at) = self.directory.at else { return Verdict::NoDirectory };
        if self.directory.is_of_this_server == Some(false) {
            return Verdict::OtherServer;
        }
        self.judged(header, at, slots, invalidated)
    }

    /// By a table that holds what the directory says of the entry's slots.
    fn judged(
        &self,
        header: &Header,
        at: Position,
        slots: &[TagSlot],
        invalidated: &BTreeMap<TagSlot, u64>,
    ) -> Verdict {
        let table = Currency::shared();
        let known: Vec<(TagSlot, u64)> =
            invalidated.iter().map(|(slot, seq)| (*slot, *seq)).collect();
        let _ = table.beat(at, &known, 1, Some(Instant::NEVER));
        // No query wants it younger than the entry's own time to live.
        let policy = Policy { ttl: Duration::MAX, l1_ttl: Duration::MAX, ..Policy::default() };
        let now = self.found.now.unwrap_or(header.ends);
        let of_tags = slots.iter().copied().filter(|slot| *slot != TagSlot::EVERYTHING);
        let judged = Judgement::new(header, of_tags, false, &table, &policy, now, self.asked);
        if !judged.is_current {
            if header.at.epoch != at.epoch {
                return Verdict::OtherEpoch { entry: header.at.epoch, directory: at.epoch };
            }
            let newest = invalidated.iter().max_by_key(|(_, seq)| **seq);
            let (slot, seq) =
                newest.map_or((TagSlot::EVERYTHING, at.seq), |(slot, seq)| (*slot, *seq));
            return Verdict::Invalidated {
                slot: slot.index(),
                loaded_at: header.at.seq,
                invalidated_at: seq,
            };
        }
        if self.found.now.is_none() {
            return Verdict::NoTime;
        }
        let Some(stored_for) = judge::stored_for(header, now) else {
            let remaining = judge::remaining(header, now);
            return Verdict::ClockSetBack { remaining, life: header.life };
        };
        if !judged.is_served(&policy, self.asked) {
            return Verdict::Expired { ago: stored_for.saturating_sub(header.ttl) };
        }
        if header.codec != 0 && Codec::of_id(header.codec).is_none() {
            return Verdict::UnknownCodec;
        }
        Verdict::Served {
            fresh_for: header.ttl.saturating_sub(stored_for),
            unchecked: matches!(self.seal, Some(Ok(Seal::Unchecked))),
        }
    }
}

fn refused(refusal: Refusal, signed: bool) -> Verdict {
    match refusal {
        Refusal::Foreign => Verdict::Foreign,
        Refusal::WrongKey => Verdict::WrongKey,
        Refusal::Damaged => Verdict::Damaged,
        Refusal::Unauthentic if signed => Verdict::Unauthentic,
        Refusal::Unauthentic => Verdict::Unsigned,
    }
}

fn details(
    claim: Claim,
    size: usize,
    parts: Parts,
    seal: Option<Result<Seal, Refusal>>,
    now: Option<u64>,
) -> EntryDetails {
    let header = claim.header.map(|header| EntryHeader {
        codec: EntryCodec::of_id(header.codec),
        ttl: header.ttl,
        life: header.life,
        load: header.load,
        stored_for: now.and_then(|now| judge::stored_for(&header, now)),
        remaining: now.map(|now| judge::remaining(&header, now)),
        epoch: header.at.epoch,
        seq: header.at.seq,
        token: u128::from_be_bytes(header.token.0),
    });
    let seal = match seal {
        Some(Ok(seal)) => seal,
        Some(Err(Refusal::Unauthentic)) => Seal::Unauthentic,
        Some(Err(_)) | None => Seal::Broken,
    };
    let (format, signed) = (claim.format, claim.signed);
    let payload = match claim.content {
        Some(Content::Whole(payload)) => payload,
        Some(Content::Elsewhere(_)) | None => parts.bytes,
    };
    let size = if parts.count > 0 { size + payload.len() } else { size };
    let parts = parts.count.into();
    EntryDetails { format, size, signed, parts, seal, header, payload }
}

fn state(
    slot: TagSlot,
    names: &[(TagSlot, String)],
    invalidated: &BTreeMap<TagSlot, u64>,
) -> SlotState {
    let names = if slot == TagSlot::EVERYTHING {
        vec!["everything".to_owned()]
    } else {
        names.iter().filter(|(named, _)| *named == slot).map(|(_, name)| name.clone()).collect()
    };
    SlotState { slot: slot.index(), names, invalidated_at: invalidated.get(&slot).copied() }
}
