//! [`Setup`]: the role and the settings that a load runs under.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use crate::error::WrongSetting;
use crate::value::key::{Digest, KeyEncoder, Shape};

/// A value of a setting of PostgreSQL: text, a whole number or a `bool`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a value of a setting",
    note = "a setting of PostgreSQL is text: `value.to_string()`"
)]
pub trait SettingValue<'a> {
    /// As PostgreSQL is sent it.
    fn into_text(self) -> Cow<'a, str>;
}

macro_rules! texts {
    ($($text:ty)*) => {$(
        impl<'a> SettingValue<'a> for $text {
            fn into_text(self) -> Cow<'a, str> {
                self.into()
            }
        }
    )*};
}

macro_rules! written {
    ($($type:ty)*) => {$(
        impl<'a> SettingValue<'a> for $type {
            fn into_text(self) -> Cow<'a, str> {
                self.to_string().into()
            }
        }
    )*};
}

texts! { &'a str &'a String String Cow<'a, str> }
written! { i8 i16 i32 i64 u8 u16 u32 u64 usize isize bool }

/// A shape that no result has: 0 is that of rows, and those of Rust types are odd.
const SHAPE: Shape = Shape(2);

/// The role and the settings that are set for a load, in its own transaction.
#[derive(Clone, Default)]
pub(crate) struct Setup<'a> {
    role: Option<Cow<'a, str>>,
    settings: Settings<'a>,
    wrong: Option<Box<WrongSetting>>,
}

/// A name and a value.
type Setting<'a> = (Cow<'a, str>, Cow<'a, str>);

/// Each setting once. A few of them need no allocation.
#[derive(Clone, Default)]
struct Settings<'a> {
    few: [Option<Setting<'a>>; 4],
    more: Vec<Setting<'a>>,
}

impl<'a> Settings<'a> {
    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.few.iter().flatten().chain(&self.more);
        all.map(|(name, value)| (&**name, &**value))
    }

    fn set(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) {
        let mut all = self.few.iter_mut().flatten().chain(&mut self.more);
        if let Some(known) = all.find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
            known.1 = value;
        } else if let Some(free) = self.few.iter_mut().find(|it| it.is_none()) {
            *free = Some((name, value));
        } else {
            self.more.push((name, value));
        }
    }
}

impl<'a> Setup<'a> {
    pub(crate) fn set_role(&mut self, role: Cow<'a, str>) {
        if role.is_empty() || role.contains('\0') || role == "none" {
            self.refuse("as_role", format!("{role:?}"), "the name of a role".to_owned());
        }
        self.role = Some(role);
    }

    pub(crate) fn set(&mut self, name: Cow<'a, str>, value: Cow<'a, str>) {
        if let Some(allowed) = refused(&name) {
            self.refuse("with_setting", format!("{name:?}"), allowed.to_owned());
        }
        if value.contains('\0') {
            let given = format!("a value with a NUL byte for {name:?}");
            self.refuse("with_setting", given, "values without one".to_owned());
        }
        self.settings.set(name, value);
    }

    fn refuse(&mut self, setting: &'static str, given: String, allowed: String) {
        self.wrong.get_or_insert_with(|| Box::new(WrongSetting { setting, given, allowed }));
    }

    pub(crate) fn check(&self) -> Result<(), &WrongSetting> {
        self.wrong.as_deref().map_or(Ok(()), Err)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.role.is_none() && self.wrong.is_none() && self.settings.iter().next().is_none()
    }

    pub(crate) fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// The value of a setting.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        let mut all = self.settings.iter();
        all.find(|(set, _)| set.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The settings, by name.
    pub(crate) fn settings(&self) -> Vec<(&str, &str)> {
        let mut all = vec![];
        Over { setup: self, base: None }.each(|name, value| all.push((name, value)));
        all
    }
}

/// Shows no value.
impl fmt::Debug for Setup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.settings.iter().map(|(name, _)| name).collect();
        f.debug_struct("Setup").field("role", &self.role).field("settings", &names).finish()
    }
}

/// What is set by a call, over what is set by its query: a call's role and settings replace those
/// of the query that have the same name.
#[derive(Clone, Copy)]
pub(crate) struct Over<'s> {
    pub(crate) setup: &'s Setup<'s>,
    pub(crate) base: Option<&'s Setup<'s>>,
}

impl<'s> Over<'s> {
    pub(crate) fn check(&self) -> Result<(), &'s WrongSetting> {
        self.base.map_or(Ok(()), Setup::check).and_then(|()| self.setup.check())
    }

    pub(crate) fn role(&self) -> Option<&'s str> {
        self.setup.role().or_else(|| self.base.and_then(Setup::role))
    }

    /// The value of a setting.
    pub(crate) fn setting(&self, name: &str) -> Option<&'s str> {
        self.setup.setting(name).or_else(|| self.base.and_then(|base| base.setting(name)))
    }

    /// Calls a function for each setting, in the order of their names, without allocating.
    pub(crate) fn each(&self, mut take: impl FnMut(&'s str, &'s str)) {
        let mut last: Option<&str> = None;
        loop {
            // The call's come first: of two with the same name, the first one is taken.
            let of_base = self.base.into_iter().flat_map(|base| base.settings.iter());
            let all = self.setup.settings.iter().chain(of_base);
            let rest = all.filter(|(name, _)| last.is_none_or(|last| by_name(last, name).is_lt()));
            let Some((name, value)) = rest.min_by(|one, other| by_name(one.0, other.0)) else {
                return;
            };
            take(name, value);
            last = Some(name);
        }
    }

    /// The digest of a query under this setup.
    ///
    /// It is a hash that is keyed with the digest of the query. So it depends on both, and it is
    /// unambiguous whatever the parameters write after it.
    pub(crate) fn digest(&self, query: Digest) -> Digest {
        let mut encoder = KeyEncoder::new(query, SHAPE);
        match self.role() {
            None => encoder.fixed([0]),
            Some(role) => {
                encoder.fixed([1]);
                encoder.bytes(role.as_bytes());
            }
        }
        self.each(|name, value| {
            encoder.fixed([1]);
            encoder.length(name.len());
            folded(name).for_each(|byte| encoder.fixed([byte]));
            encoder.bytes(value.as_bytes());
        });
        encoder.fixed([0]);
        Digest::of_key(encoder.finish())
    }

    pub(crate) fn into_owned(self) -> Setup<'static> {
        let owned = |text: &str| Cow::Owned(text.to_owned());
        let mut setup = Setup { role: self.role().map(owned), ..Setup::default() };
        self.each(|name, value| setup.settings.set(owned(name), owned(value)));
        setup
    }
}

/// The bytes of a name that PostgreSQL compares.
fn folded(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

/// Compares two names as PostgreSQL does: ASCII letters are folded, others are not.
fn by_name(one: &str, other: &str) -> Ordering {
    folded(one).cmp(folded(other))
}

/// What is allowed instead of a setting that would be dangerous or without effect.
fn refused(name: &str) -> Option<&'static str> {
    const REFUSED: &[(&[&str], &str)] = &[
        (
            &["role", "session_authorization", "is_superuser"],
            "other settings; say as which role a query runs by `as_role`",
        ),
        (
            &[
                "transaction_isolation",
                "transaction_read_only",
                "transaction_deferrable",
                "default_transaction_isolation",
                "default_transaction_read_only",
                "default_transaction_deferrable",
            ],
            "other settings; the transaction of a load is READ COMMITTED, and has begun before \
             they are set",
        ),
        (&["client_encoding"], "other settings; rows are read as UTF8"),
    ];
    if name.is_empty() || name.contains('\0') {
        return Some("the name of a setting, such as `TimeZone` or `app.tenant`");
    }
    let refused = REFUSED
        .iter()
        .find(|(names, _)| names.iter().any(|refused| refused.eq_ignore_ascii_case(name)));
    refused.map(|(_, allowed)| *allowed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn setup(role: Option<&str>, settings: &[(&str, &str)]) -> Setup<'static> {
        let mut setup = Setup::default();
        if let Some(role) = role {
            setup.set_role(Cow::Owned(role.to_owned()));
        }
        for (name, value) in settings {
            setup.set(Cow::Owned((*name).to_owned()), Cow::Owned((*value).to_owned()));
        }
        setup
    }

    fn query() -> Digest {
        Digest::new("shop", "SELECT 1", None, 0)
    }

    fn digest(setup: &Setup<'_>) -> Digest {
        Over { setup, base: None }.digest(query())
    }

    #[test]
    fn a_value_is_its_text_whatever_its_type() {
        fn text<'a>(value: impl SettingValue<'a>) -> Cow<'a, str> {
            value.into_text()
        }
        assert_eq!([text(7_i64), text(7_u8), text("7".to_owned())], ["7"; 3]);
        assert_eq!([text(-7_i32), text(i64::MIN)], ["-7", "-9223372036854775808"]);
        assert_eq!([text(true), text(false)], ["true", "false"]);
        // Nothing is allocated for text.
        let name = String::from("eu");
        assert!(matches!((text(&name), text("eu")), (Cow::Borrowed("eu"), Cow::Borrowed("eu"))));
    }

    #[test]
    fn what_is_set_counts_and_the_order_and_case_of_names_do_not() {
        let base = setup(Some("r"), &[("app.tenant", "7"), ("TimeZone", "UTC")]);
        for same in [
            setup(Some("r"), &[("TIMEZONE", "UTC"), ("app.Tenant", "7")]),
            setup(Some("r"), &[("app.tenant", "8"), ("timezone", "UTC"), ("APP.TENANT", "7")]),
        ] {
            assert_eq!(digest(&base), digest(&same));
        }
        for other in [
            setup(None, &[("app.tenant", "7"), ("TimeZone", "UTC")]),
            setup(Some("R"), &[("app.tenant", "7"), ("TimeZone", "UTC")]),
            setup(Some("r"), &[("app.tenant", "7"), ("TimeZone", "utc")]),
            setup(Some("r"), &[("app.tenant", "7")]),
            setup(Some("r"), &[]),
            setup(Some("r"), &[("app.tenant", "UTC"), ("TimeZone", "7")]),
            setup(Some("r"), &[("app.tenant7", ""), ("TimeZone", "UTC")]),
            Setup::default(),
        ] {
            assert_ne!(digest(&base), digest(&other), "{other:?}");
        }
        assert_ne!(digest(&Setup::default()), query());
    }

    /// Other processes, and other versions, find the results under these keys.
    #[test]
    fn a_digest_is_that_of_its_first_version() {
        let setup = setup(Some("app"), &[("TimeZone", "UTC"), ("app.tenant", "7")]);
        let mut encoder = KeyEncoder::new(digest(&setup), Shape(0));
        let text = encoder.finish().to_hex().to_string();
        assert_eq!(text, "19e39bc65222259bdeecebd417593205fd815fe2d111eb89f1da7524a1776a5f");
        let mut bytes = 2_u64.to_le_bytes().to_vec();
        bytes.extend(b"\x01\x03app\x01\x0aapp.tenant\x017\x01\x08timezone\x03UTC\x00");
        let digest = blake3::keyed_hash(query().as_bytes(), &bytes);
        let key = blake3::keyed_hash(digest.as_bytes(), &0_u64.to_le_bytes());
        assert_eq!(text, key.to_hex().as_str());
    }

    #[test]
    fn a_call_replaces_what_its_query_sets() {
        let names = ["a.a", "a.b", "a.c", "a.d", "a.e", "a.f"];
        let all = names.map(|name| (name, "of the query"));
        let base = setup(Some("of_the_query"), &all);
        let call = setup(Some("of_the_call"), &[("A.F", "of the call"), ("a.0", "new")]);
        let over = Over { setup: &call, base: Some(&base) };
        let merged = over.into_owned();
        assert_eq!(merged.role(), Some("of_the_call"));
        let found: Vec<_> = merged.settings();
        let value = |it: &str| found.iter().find(|found| found.0 == it).map(|found| found.1);
        assert_eq!(found.len(), 7);
        assert_eq!((value("A.F"), value("a.0")), (Some("of the call"), Some("new")));
        assert_eq!(value("a.e"), Some("of the query"));
        assert_eq!(over.digest(query()), digest(&merged));
    }

    #[test]
    fn what_is_dangerous_or_without_effect_is_refused_and_no_value_is_shown() {
        for name in ["", "a\0b", "Role", "session_authorization", "TRANSACTION_READ_ONLY"] {
            let wrong = setup(None, &[(name, "hunter2")]);
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.contains("with_setting") && !error.contains("hunter2"), "{error}");
        }
        let wrong = setup(None, &[("app.key", "hunter2\0")]);
        assert!(!wrong.check().unwrap_err().to_string().contains("hunter2"));
        for role in ["", "none", "a\0b"] {
            assert!(setup(Some(role), &[]).check().is_err(), "{role:?}");
        }
        let right = setup(Some("None"), &[("app.key", "hunter2"), ("search_path", "")]);
        right.check().unwrap();
        assert!(!format!("{right:?}").contains("hunter2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn two_setups_share_a_digest_only_if_they_set_the_same(
            one in (prop::option::of("[ab]{1,2}"), prop::collection::vec(("[aAb]{1,2}", "[ab\u{1}]{0,3}"), 0..7)),
            two in (prop::option::of("[ab]{1,2}"), prop::collection::vec(("[aAb]{1,2}", "[ab\u{1}]{0,3}"), 0..7)),
        ) {
            type Given = (Option<String>, Vec<(String, String)>);
            let canonical = |(role, settings): &Given| {
                let map: std::collections::BTreeMap<_, _> = settings
                    .iter()
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
                    .collect();
                (role.clone(), map)
            };
            let made = |(role, settings): &Given| {
                let settings: Vec<_> =
                    settings.iter().map(|(name, value)| (&**name, &**value)).collect();
                digest(&setup(role.as_deref(), &settings))
            };
            prop_assert_eq!(canonical(&one) == canonical(&two), made(&one) == made(&two));
        }
    }
}
