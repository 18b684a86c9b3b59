//! PostgreSQL's own functions: which of those that are not IMMUTABLE change nothing by themselves.
//!
//! STABLE says that a result may differ between two statements. For most functions it does so only
//! because a setting of the session differs, and the settings are part of the key. For others, such as
//! `now()`, it does so by itself.

/// What the result of a built-in function that is not IMMUTABLE depends on, besides its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// On these settings of the session and on nothing else.
    Settings(&'static [&'static str]),
    /// On the user, the database or the schemas of the session.
    Session,
    /// On the setting that its first argument names.
    NamedSetting,
    /// On something that nobody is told of.
    Unsettled,
}

const TIME: &[&str] = &["TimeZone", "DateStyle", "IntervalStyle"];
const WORDS: &[&str] = &["default_text_search_config"];
const MONEY: &[&str] = &["lc_monetary"];
const XML: &[&str] = &["xmloption"];
/// What the text of a value depends on.
const TEXT: &[&str] = &[
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "lc_monetary",
    "bytea_output",
    "extra_float_digits",
];
/// What patterns of `to_char` and its relatives depend on.
const PATTERNS: &[&str] = &["TimeZone", "DateStyle", "IntervalStyle", "lc_numeric", "lc_time"];

/// Names of functions in `pg_catalog`, and what all functions of that name depend on.
///
/// Functions that read a value of any type from a text (`jsonb_to_record` and the like) are not among
/// them: a text may be `now`.
const SETTLED: &[(&[&str], &[&str])] = &[
    (
        &[
            "date_trunc",
            "date_part",
            "extract",
            "timezone",
            "date",
            "time",
            "timetz",
            "timestamp",
            "timestamptz",
            "interval",
            "make_timestamptz",
            "generate_series",
            "date_bin",
            "date_add",
            "date_subtract",
            "timestamptz_pl_interval",
            "timestamptz_mi_interval",
            "interval_pl_timestamptz",
            "overlaps",
            "in_range",
        ],
        TIME,
    ),
    (&["to_char", "to_date", "to_timestamp", "to_number"], PATTERNS),
    (
        &[
            "concat",
            "concat_ws",
            "format",
            "array_to_string",
            "anytextcat",
            "textanycat",
            "quote_literal",
            "quote_nullable",
            "to_json",
            "to_jsonb",
            "row_to_json",
            "array_to_json",
            "json_build_object",
            "jsonb_build_object",
            "json_build_array",
            "jsonb_build_array",
            "json_agg",
            "jsonb_agg",
            "json_agg_strict",
            "jsonb_agg_strict",
            "json_object_agg",
            "jsonb_object_agg",
            "json_object_agg_strict",
            "jsonb_object_agg_strict",
            "json_object_agg_unique",
            "jsonb_object_agg_unique",
            "json_object_agg_unique_strict",
            "jsonb_object_agg_unique_strict",
        ],
        TEXT,
    ),
    (
        &[
            "to_tsvector",
            "to_tsquery",
            "plainto_tsquery",
            "phraseto_tsquery",
            "websearch_to_tsquery",
            "json_to_tsvector",
            "jsonb_to_tsvector",
            "get_current_ts_config",
            "ts_headline",
        ],
        WORDS,
    ),
    (&["money", "numeric"], MONEY),
    (&["xml", "text", "xml_is_well_formed"], XML),
    (
        &[
            "string_to_array",
            "regexp_split_to_table",
            "pg_typeof",
            "convert",
            "convert_from",
            "convert_to",
            "length",
        ],
        &[],
    ),
];

/// Functions whose result depends on who asks and where.
const OF_THE_SESSION: &[&str] = &[
    "current_user",
    "session_user",
    "getpgusername",
    "current_database",
    "current_schema",
    "current_schemas",
];

/// What a built-in function that is not IMMUTABLE depends on.
pub(crate) fn builtin(name: &str) -> Builtin {
    if name == "current_setting" {
        return Builtin::NamedSetting;
    }
    if OF_THE_SESSION.contains(&name) {
        return Builtin::Session;
    }
    if let Some((_, settings)) = SETTLED.iter().find(|(names, _)| names.contains(&name)) {
        return Builtin::Settings(settings);
    }
    if compares_times(name) { Builtin::Settings(TIME) } else { Builtin::Unsettled }
}

/// The names whose results depend on settings and on nothing else, but those that [`COMPARES_TIMES`] finds.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SETTLED.iter().flat_map(|(names, _)| names.iter().copied())
}

/// The names of functions that compare times, as a regular expression of PostgreSQL.
pub(crate) const COMPARES_TIMES: &str =
    "^(date|timestamp|timestamptz)_(eq|ne|lt|le|gt|ge|cmp)_(date|timestamp|timestamptz)$";

/// `date_lt_timestamptz` and its relatives: only the time zone makes them STABLE.
fn compares_times(name: &str) -> bool {
    let types = ["timestamptz", "timestamp", "date"];
    types.iter().any(|left| {
        let Some(rest) = name.strip_prefix(left).and_then(|rest| rest.strip_prefix('_')) else {
            return false;
        };
        let Some((operator, right)) = rest.split_once('_') else { return false };
        ["eq", "ne", "lt", "le", "gt", "ge", "cmp"].contains(&operator) && types.contains(&right)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_and_chance_are_not_settled_and_what_depends_on_settings_is() {
        for name in [
            "now",
            "transaction_timestamp",
            "clock_timestamp",
            "random",
            "gen_random_uuid",
            "nextval",
            "age",
            "query_to_xml",
            "pg_relation_size",
            "has_table_privilege",
            "txid_current",
            "set_config",
            "jsonb_to_record",
            "jsonb_path_query_tz",
            "timestamptz_in",
            "enum_range",
            "date_lt_interval",
        ] {
            assert_eq!(builtin(name), Builtin::Unsettled, "{name}");
        }
        for name in ["date_trunc", "timestamptz_pl_interval", "date_lt_timestamptz", "extract"] {
            assert_eq!(builtin(name), Builtin::Settings(TIME), "{name}");
        }
        assert_eq!(builtin("timestamp_cmp_timestamptz"), Builtin::Settings(TIME));
        assert_eq!(builtin("to_tsvector"), Builtin::Settings(WORDS));
        assert_eq!(builtin("current_setting"), Builtin::NamedSetting);
        assert_eq!(builtin("current_schemas"), Builtin::Session);
    }
}
