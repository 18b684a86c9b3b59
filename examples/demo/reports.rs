//! The reports: what a dashboard over these tables would ask.
//!
//! The Q ones are TPC-H's, with its substitution parameters as `$1`, `$2` and `$3`, set to the
//! values by which TPC-H validates a system. Where its text leaves the order of equal rows open, a
//! key is added, so that two runs can be compared row by row.

use chrono::NaiveDate;
use larder::{Row, Rows};
use rust_decimal::Decimal;

use crate::format::{count, money};
use crate::params::Params;

/// One report.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
    pub(crate) params: Params,
    /// Its answer in one line, read from the cached rows.
    pub(crate) gist: fn(&Rows) -> String,
}

/// All reports, in the order they are shown.
pub(crate) fn all() -> Vec<Report> {
    vec![
        pricing_summary(),
        shipping_priority(),
        local_suppliers(),
        revenue_forecast(),
        returned_items(),
        large_orders(),
        daily_revenue(),
        customers_of_a_nation(),
        one_customer(),
    ]
}

fn pricing_summary() -> Report {
    Report {
        name: "Q1 pricing summary",
        sql: "SELECT l_returnflag, l_linestatus,
                     sum(l_quantity) AS sum_qty,
                     sum(l_extendedprice) AS sum_base_price,
                     sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price,
                     sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge,
                     avg(l_quantity) AS avg_qty,
                     avg(l_extendedprice) AS avg_price,
                     avg(l_discount) AS avg_disc,
                     count(*) AS count_order
              FROM lineitem
              WHERE l_shipdate <= date '1998-12-01' - $1::integer
              GROUP BY l_returnflag, l_linestatus
              ORDER BY l_returnflag, l_linestatus",
        params: Params::Days(90),
        gist: |rows| {
            let lines: i64 = rows.iter().map(|row| row.get::<_, i64>("count_order")).sum();
            format!("{} order lines in {} groups", count(lines.unsigned_abs()), rows.len())
        },
    }
}

fn shipping_priority() -> Report {
    Report {
        name: "Q3 shipping queue",
        sql: "SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue,
                     o_orderdate, o_shippriority
              FROM customer
              JOIN orders ON o_custkey = c_custkey
              JOIN lineitem ON l_orderkey = o_orderkey
              WHERE c_mktsegment = $1 AND o_orderdate < $2 AND l_shipdate > $2
              GROUP BY l_orderkey, o_orderdate, o_shippriority
              ORDER BY revenue DESC, o_orderdate, l_orderkey
              LIMIT 10",
        params: Params::TextSince("BUILDING", day(1995, 3, 15)),
        gist: |rows| {
            first(rows, |row| {
                let order: i64 = row.get("l_orderkey");
                let revenue: Decimal = row.get("revenue");
                format!("order {order} waits with {}", money(revenue))
            })
        },
    }
}

fn local_suppliers() -> Report {
    Report {
        name: "Q5 local suppliers",
        sql: "SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue
              FROM customer
              JOIN orders ON o_custkey = c_custkey
              JOIN lineitem ON l_orderkey = o_orderkey
              JOIN supplier ON s_suppkey = l_suppkey AND s_nationkey = c_nationkey
              JOIN nation ON n_nationkey = s_nationkey
              JOIN region ON r_regionkey = n_regionkey
              WHERE r_name = $1
                AND o_orderdate >= $2::date AND o_orderdate < $2::date + interval '1 year'
              GROUP BY n_name
              ORDER BY revenue DESC, n_name",
        params: Params::TextSince("ASIA", day(1994, 1, 1)),
        gist: |rows| {
            first(rows, |row| {
                let nation: &str = row.get("n_name");
                let revenue: Decimal = row.get("revenue");
                format!("{} leads with {}", nation.trim_end(), money(revenue))
            })
        },
    }
}

fn revenue_forecast() -> Report {
    Report {
        name: "Q6 forecast",
        sql: "SELECT sum(l_extendedprice * l_discount) AS revenue
              FROM lineitem
              WHERE l_shipdate >= $1::date AND l_shipdate < $1::date + interval '1 year'
                AND l_discount BETWEEN $2::numeric - 0.01 AND $2::numeric + 0.01
                AND l_quantity < $3",
        params: Params::Discounts(day(1994, 1, 1), Decimal::new(6, 2), Decimal::new(24, 0)),
        gist: |rows| {
            first(rows, |row| match row.get::<_, Option<Decimal>>("revenue") {
                Some(revenue) => format!("{} could have been earned", money(revenue)),
                None => "nothing could have been earned".to_owned(),
            })
        },
    }
}

fn returned_items() -> Report {
    Report {
        name: "Q10 returned items",
        sql: "SELECT c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) AS revenue,
                     c_acctbal, n_name, c_address, c_phone, c_comment
              FROM customer
              JOIN orders ON o_custkey = c_custkey
              JOIN lineitem ON l_orderkey = o_orderkey
              JOIN nation ON n_nationkey = c_nationkey
              WHERE o_orderdate >= $1::date AND o_orderdate < $1::date + interval '3 months'
                AND l_returnflag = $2
              GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment
              ORDER BY revenue DESC, c_custkey
              LIMIT 20",
        params: Params::SinceText(day(1993, 10, 1), "R"),
        gist: |rows| {
            first(rows, |row| {
                let customer: &str = row.get("c_name");
                let revenue: Decimal = row.get("revenue");
                format!("{customer} sent back {}", money(revenue))
            })
        },
    }
}

fn large_orders() -> Report {
    Report {
        name: "Q18 large orders",
        sql: "SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice,
                     sum(l_quantity) AS quantity
              FROM customer
              JOIN orders ON o_custkey = c_custkey
              JOIN lineitem ON l_orderkey = o_orderkey
              WHERE o_orderkey IN (SELECT l_orderkey FROM lineitem
                                   GROUP BY l_orderkey HAVING sum(l_quantity) > $1)
              GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice
              ORDER BY o_totalprice DESC, o_orderdate, o_orderkey
              LIMIT 100",
        params: Params::Quantity(Decimal::new(300, 0)),
        gist: |rows| {
            first(rows, |row| {
                let customer: &str = row.get("c_name");
                let price: Decimal = row.get("o_totalprice");
                format!("{customer} ordered for {}", money(price))
            })
        },
    }
}

fn daily_revenue() -> Report {
    Report {
        name: "daily revenue",
        sql: "SELECT o_orderdate AS day, count(DISTINCT o_orderkey) AS orders,
                     sum(l_extendedprice * (1 - l_discount)) AS revenue
              FROM orders
              JOIN lineitem ON l_orderkey = o_orderkey
              WHERE o_orderdate >= $1 AND o_orderdate < $2
              GROUP BY o_orderdate
              ORDER BY o_orderdate",
        params: Params::Between(day(1997, 1, 1), day(1998, 1, 1)),
        gist: |rows| {
            let best = rows.iter().max_by_key(|row| row.get::<_, Decimal>("revenue"));
            best.map_or_else(nothing, |row| {
                let day: NaiveDate = row.get("day");
                let revenue: Decimal = row.get("revenue");
                format!("best on {day} with {}", money(revenue))
            })
        },
    }
}

fn customers_of_a_nation() -> Report {
    Report {
        name: "customer statistics",
        sql: "SELECT c_custkey, c_name, count(o_orderkey) AS orders,
                     sum(o_totalprice) AS spent, avg(o_totalprice) AS mean,
                     max(o_orderdate) AS latest
              FROM customer
              JOIN nation ON n_nationkey = c_nationkey
              LEFT JOIN orders ON o_custkey = c_custkey AND o_orderdate >= $2
              WHERE n_name = $1
              GROUP BY c_custkey
              ORDER BY spent DESC NULLS LAST, c_custkey",
        params: Params::TextSince("FRANCE", day(1997, 1, 1)),
        gist: |rows| {
            let idle = rows.iter().filter(|row| row.get::<_, i64>("orders") == 0).count();
            format!("{idle} of {} customers bought nothing", rows.len())
        },
    }
}

fn one_customer() -> Report {
    Report {
        name: "one customer",
        sql: "SELECT count(DISTINCT o_orderkey) AS orders, count(*) AS items,
                     sum(l_extendedprice * (1 - l_discount)) AS spent,
                     min(o_orderdate) AS first, max(o_orderdate) AS latest
              FROM orders
              JOIN lineitem ON l_orderkey = o_orderkey
              WHERE o_custkey = $1 AND o_orderdate >= $2",
        params: Params::KeySince(7, day(1992, 1, 1)),
        gist: |rows| {
            first(rows, |row| {
                let orders: i64 = row.get("orders");
                let spent: Option<Decimal> = row.get("spent");
                format!("{orders} orders for {}", money(spent.unwrap_or_default()))
            })
        },
    }
}

fn first(rows: &Rows, gist: impl Fn(Row<'_>) -> String) -> String {
    rows.iter().next().map_or_else(nothing, gist)
}

fn nothing() -> String {
    "no rows".to_owned()
}

fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default()
}
