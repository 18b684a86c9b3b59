//! The rows of each table, from the generator into a COPY.

use std::pin::Pin;

use anyhow::Result;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};

use crate::progress::Progress;
use crate::schema::Table;
use crate::wire::{Day, Hundredths, Shown};

/// Rows reported to the progress bar at once: it takes a lock.
const BATCH: u64 = 1_000;

/// One piece of a table: the generator makes each on its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) table: Table,
    pub(crate) scale: f64,
    pub(crate) number: i32,
    pub(crate) of: i32,
}

impl Piece {
    /// All pieces of all tables.
    pub(crate) fn all(scale: f64) -> Vec<Self> {
        let pieces_of = |table: Table| {
            let of = table.pieces();
            (1..=of).map(move |number| Self { table, scale, number, of })
        };
        Table::ALL.into_iter().flat_map(pieces_of).collect()
    }

    /// Generates the piece and copies it in; returns the number of rows.
    pub(crate) async fn load(self, client: &Client, progress: &Progress) -> Result<u64> {
        let mut copy = Copy::begin(client, self.table, progress).await?;
        match self.table {
            Table::Region => self.regions(&mut copy).await?,
            Table::Nation => self.nations(&mut copy).await?,
            Table::Supplier => self.suppliers(&mut copy).await?,
            Table::Customer => self.customers(&mut copy).await?,
            Table::Part => self.parts(&mut copy).await?,
            Table::PartSupp => self.offers(&mut copy).await?,
            Table::Orders => self.orders(&mut copy).await?,
            Table::LineItem => self.lines(&mut copy).await?,
        }
        copy.finish().await
    }

    async fn regions(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in RegionGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[&row.r_regionkey, &row.r_name, &row.r_comment]).await?;
        }
        Ok(())
    }

    async fn nations(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in NationGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[&row.n_nationkey, &row.n_name, &row.n_regionkey, &row.n_comment]).await?;
        }
        Ok(())
    }

    async fn suppliers(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in SupplierGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[
                &row.s_suppkey,
                &Shown(row.s_name),
                &Shown(row.s_address),
                &row.s_nationkey,
                &Shown(row.s_phone),
                &Hundredths::from(row.s_acctbal),
                &row.s_comment,
            ])
            .await?;
        }
        Ok(())
    }

    async fn customers(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in CustomerGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[
                &row.c_custkey,
                &Shown(row.c_name),
                &Shown(row.c_address),
                &row.c_nationkey,
                &Shown(row.c_phone),
                &Hundredths::from(row.c_acctbal),
                &row.c_mktsegment,
                &row.c_comment,
            ])
            .await?;
        }
        Ok(())
    }

    async fn parts(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in PartGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[
                &row.p_partkey,
                &Shown(row.p_name),
                &Shown(row.p_mfgr),
                &Shown(row.p_brand),
                &row.p_type,
                &row.p_size,
                &row.p_container,
                &Hundredths::from(row.p_retailprice),
                &row.p_comment,
            ])
            .await?;
        }
        Ok(())
    }

    async fn offers(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in PartSuppGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[
                &row.ps_partkey,
                &row.ps_suppkey,
                &row.ps_availqty,
                &Hundredths::from(row.ps_supplycost),
                &row.ps_comment,
            ])
            .await?;
        }
        Ok(())
    }

    async fn orders(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in OrderGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[
                &row.o_orderkey,
                &row.o_custkey,
                &row.o_orderstatus.as_str(),
                &Hundredths::from(row.o_totalprice),
                &Day(row.o_orderdate),
                &row.o_orderpriority,
                &Shown(row.o_clerk),
                &row.o_shippriority,
                &row.o_comment,
            ])
            .await?;
        }
        Ok(())
    }

    async fn lines(self, copy: &mut Copy<'_>) -> Result<()> {
        for row in LineItemGenerator::new(self.scale, self.number, self.of).iter() {
            copy.row(&[
                &row.l_orderkey,
                &row.l_partkey,
                &row.l_suppkey,
                &row.l_linenumber,
                &Hundredths::whole(row.l_quantity),
                &Hundredths::from(row.l_extendedprice),
                &Hundredths::from(row.l_discount),
                &Hundredths::from(row.l_tax),
                &row.l_returnflag,
                &row.l_linestatus,
                &Day(row.l_shipdate),
                &Day(row.l_commitdate),
                &Day(row.l_receiptdate),
                &row.l_shipinstruct,
                &row.l_shipmode,
                &row.l_comment,
            ])
            .await?;
        }
        Ok(())
    }
}

/// A binary COPY under way.
struct Copy<'a> {
    writer: Pin<Box<BinaryCopyInWriter>>,
    progress: &'a Progress,
    unreported: u64,
}

impl<'a> Copy<'a> {
    async fn begin(client: &Client, table: Table, progress: &'a Progress) -> Result<Self> {
        // The table knows its types; a second list here could only differ.
        let columns = client.prepare(&format!("SELECT * FROM {table}")).await?;
        let types: Vec<Type> =
            columns.columns().iter().map(|column| column.type_().clone()).collect();
        let sink = client.copy_in(&format!("COPY {table} FROM STDIN (FORMAT binary)")).await?;
        Ok(Self {
            writer: Box::pin(BinaryCopyInWriter::new(sink, &types)),
            progress,
            unreported: 0,
        })
    }

    async fn row(&mut self, values: &[&(dyn ToSql + Sync)]) -> Result<()> {
        self.writer.as_mut().write(values).await?;
        self.unreported += 1;
        if self.unreported == BATCH {
            self.progress.advance(BATCH);
            self.unreported = 0;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<u64> {
        let rows = self.writer.as_mut().finish().await?;
        self.progress.advance(self.unreported);
        Ok(rows)
    }
}
