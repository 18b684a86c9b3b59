//! The eight tables of TPC-H.

use std::fmt;

use tpchgen::generators::{
    CustomerGenerator, OrderGenerator, PartGenerator, PartSuppGenerator, SupplierGenerator,
};

/// A table of TPC-H.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Region,
    Nation,
    Supplier,
    Customer,
    Part,
    PartSupp,
    Orders,
    LineItem,
}

impl Table {
    /// The largest first, so that the last job of a parallel load is a short
    /// one.
    pub(crate) const ALL: [Self; 8] = [
        Self::LineItem,
        Self::Orders,
        Self::PartSupp,
        Self::Part,
        Self::Customer,
        Self::Supplier,
        Self::Nation,
        Self::Region,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Nation => "nation",
            Self::Supplier => "supplier",
            Self::Customer => "customer",
            Self::Part => "part",
            Self::PartSupp => "partsupp",
            Self::Orders => "orders",
            Self::LineItem => "lineitem",
        }
    }

    /// How many rows the generator makes. Orders have one to seven lines, so
    /// for `lineitem` this is a close guess.
    pub(crate) fn expected_rows(self, scale: f64) -> u64 {
        let rows = match self {
            Self::Region => 5,
            Self::Nation => 25,
            Self::Supplier => SupplierGenerator::calculate_row_count(scale, 1, 1),
            Self::Customer => CustomerGenerator::calculate_row_count(scale, 1, 1),
            Self::Part => PartGenerator::calculate_row_count(scale, 1, 1),
            Self::PartSupp => PartSuppGenerator::calculate_row_count(scale, 1, 1),
            Self::Orders => OrderGenerator::calculate_row_count(scale, 1, 1),
            Self::LineItem => OrderGenerator::calculate_row_count(scale, 1, 1) * 4,
        };
        rows.unsigned_abs()
    }

    /// In how many pieces the table is loaded, for the connections to share.
    pub(crate) fn pieces(self) -> i32 {
        match self {
            Self::LineItem => 8,
            Self::Orders => 2,
            _ => 1,
        }
    }

    /// The columns, by the specification of TPC-H.
    pub(crate) fn columns(self) -> &'static str {
        match self {
            Self::Region => {
                "r_regionkey bigint NOT NULL,
                 r_name      char(25) NOT NULL,
                 r_comment   varchar(152) NOT NULL"
            }
            Self::Nation => {
                "n_nationkey bigint NOT NULL,
                 n_name      char(25) NOT NULL,
                 n_regionkey bigint NOT NULL,
                 n_comment   varchar(152) NOT NULL"
            }
            Self::Supplier => {
                "s_suppkey   bigint NOT NULL,
                 s_name      char(25) NOT NULL,
                 s_address   varchar(40) NOT NULL,
                 s_nationkey bigint NOT NULL,
                 s_phone     char(15) NOT NULL,
                 s_acctbal   numeric(15,2) NOT NULL,
                 s_comment   varchar(101) NOT NULL"
            }
            Self::Customer => {
                "c_custkey    bigint NOT NULL,
                 c_name       varchar(25) NOT NULL,
                 c_address    varchar(40) NOT NULL,
                 c_nationkey  bigint NOT NULL,
                 c_phone      char(15) NOT NULL,
                 c_acctbal    numeric(15,2) NOT NULL,
                 c_mktsegment char(10) NOT NULL,
                 c_comment    varchar(117) NOT NULL"
            }
            Self::Part => {
                "p_partkey     bigint NOT NULL,
                 p_name        varchar(55) NOT NULL,
                 p_mfgr        char(25) NOT NULL,
                 p_brand       char(10) NOT NULL,
                 p_type        varchar(25) NOT NULL,
                 p_size        integer NOT NULL,
                 p_container   char(10) NOT NULL,
                 p_retailprice numeric(15,2) NOT NULL,
                 p_comment     varchar(23) NOT NULL"
            }
            Self::PartSupp => {
                "ps_partkey    bigint NOT NULL,
                 ps_suppkey    bigint NOT NULL,
                 ps_availqty   integer NOT NULL,
                 ps_supplycost numeric(15,2) NOT NULL,
                 ps_comment    varchar(199) NOT NULL"
            }
            Self::Orders => {
                "o_orderkey      bigint NOT NULL,
                 o_custkey       bigint NOT NULL,
                 o_orderstatus   char(1) NOT NULL,
                 o_totalprice    numeric(15,2) NOT NULL,
                 o_orderdate     date NOT NULL,
                 o_orderpriority char(15) NOT NULL,
                 o_clerk         char(15) NOT NULL,
                 o_shippriority  integer NOT NULL,
                 o_comment       varchar(79) NOT NULL"
            }
            Self::LineItem => {
                "l_orderkey      bigint NOT NULL,
                 l_partkey       bigint NOT NULL,
                 l_suppkey       bigint NOT NULL,
                 l_linenumber    integer NOT NULL,
                 l_quantity      numeric(15,2) NOT NULL,
                 l_extendedprice numeric(15,2) NOT NULL,
                 l_discount      numeric(15,2) NOT NULL,
                 l_tax           numeric(15,2) NOT NULL,
                 l_returnflag    char(1) NOT NULL,
                 l_linestatus    char(1) NOT NULL,
                 l_shipdate      date NOT NULL,
                 l_commitdate    date NOT NULL,
                 l_receiptdate   date NOT NULL,
                 l_shipinstruct  char(25) NOT NULL,
                 l_shipmode      char(10) NOT NULL,
                 l_comment       varchar(44) NOT NULL"
            }
        }
    }

    /// The primary key, the foreign keys and the dates that reports select
    /// by: what a careful owner of this database would index. Without them
    /// PostgreSQL would look slower than it is.
    pub(crate) fn indexes(self) -> &'static [Index] {
        match self {
            Self::Region => &[Index::Primary("r_regionkey")],
            Self::Nation => &[Index::Primary("n_nationkey"), Index::On("n_regionkey")],
            Self::Supplier => &[Index::Primary("s_suppkey"), Index::On("s_nationkey")],
            Self::Customer => &[Index::Primary("c_custkey"), Index::On("c_nationkey")],
            Self::Part => &[Index::Primary("p_partkey")],
            Self::PartSupp => &[Index::Primary("ps_partkey, ps_suppkey"), Index::On("ps_suppkey")],
            Self::Orders => {
                &[Index::Primary("o_orderkey"), Index::On("o_custkey"), Index::On("o_orderdate")]
            }
            Self::LineItem => &[
                Index::Primary("l_orderkey, l_linenumber"),
                Index::On("l_partkey, l_suppkey"),
                Index::On("l_suppkey"),
                Index::On("l_shipdate"),
            ],
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An index of a table, by its columns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Index {
    Primary(&'static str),
    On(&'static str),
}

impl Index {
    /// The statement that makes it.
    pub(crate) fn create(self, table: Table) -> String {
        match self {
            Self::Primary(columns) => format!("ALTER TABLE {table} ADD PRIMARY KEY ({columns})"),
            Self::On(columns) => format!("CREATE INDEX ON {table} ({columns})"),
        }
    }
}
