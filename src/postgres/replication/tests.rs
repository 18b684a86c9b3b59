//! Connections for replication to real servers: hosts, TLS, passwords, and the plugin's output.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use test_servers::{Authority, Postgres};
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connection::{ReplicationConnection, Streamed};
use super::dial::Endpoint;
use super::error::ReplicationError;
use super::test_decoding::{self, Encoding, Line};
use crate::value::relation::RelationName;

const PATIENCE: Duration = Duration::from_secs(30);

const LOGICAL: &[&str] = &["wal_level=logical", "max_wal_senders=8", "max_replication_slots=8"];

async fn connected(
    config: Config,
    tls: Option<MakeRustlsConnect>,
) -> Result<ReplicationConnection, ReplicationError> {
    let endpoint = match tls {
        Some(tls) => Endpoint::new(config, tls),
        None => Endpoint::new(config, NoTls),
    };
    let mut last = None;
    for address in endpoint.addresses().await? {
        match address.replication().await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap())
}

/// How the session has logged in, as the server says.
async fn session(connection: &mut ReplicationConnection) -> String {
    let sql = "SELECT current_user, (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), \
               (SELECT backend_type FROM pg_stat_activity WHERE pid = pg_backend_pid())";
    let rows = connection.run(sql).await.unwrap();
    rows[0].iter().flatten().cloned().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_session_logs_in_by_every_method_over_every_way() {
    let authority = Authority::new().unwrap();
    let identity = authority.sign("localhost").unwrap();
    let access = "\
        local all postgres trust\n\
        local all all reject\n\
        hostssl all bound 127.0.0.1/32 scram-sha-256\n\
        hostnossl all bound 127.0.0.1/32 reject\n\
        host all scram 127.0.0.1/32 scram-sha-256\n\
        host all hashed 127.0.0.1/32 md5\n\
        host all plain 127.0.0.1/32 password\n";
    let server = Postgres::start_with_access(access, Some(&identity), LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE scram LOGIN REPLICATION PASSWORD 'a b'; \
             CREATE ROLE bound LOGIN REPLICATION PASSWORD 'a b'; \
             CREATE ROLE plain LOGIN REPLICATION PASSWORD 'a b'; \
             SET password_encryption = 'md5'; \
             CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'a b'",
        )
        .await
        .unwrap();
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tls = MakeRustlsConnect::new(client);

    let mut unix = connected(database.config(), None).await.unwrap();
    assert_eq!(session(&mut unix).await, "postgres f walsender");
    let mut unix = connected(database.config(), Some(tls.clone())).await.unwrap();
    assert_eq!(session(&mut unix).await, "postgres f walsender");

    let over_tcp = |user: &str, password: &str| {
        let mut config = Config::new();
        config.host("localhost").port(server.port()).user(user).password(password);
        config.dbname(database.name());
        config
    };
    for user in ["scram", "hashed", "plain"] {
        for mode in [SslMode::Disable, SslMode::Prefer, SslMode::Require] {
            let mut config = over_tcp(user, "a b");
            config.ssl_mode(mode);
            let encrypted = if mode == SslMode::Disable { "f" } else { "t" };
            let mut session_of = connected(config.clone(), Some(tls.clone())).await.unwrap();
            assert_eq!(session(&mut session_of).await, format!("{user} {encrypted} walsender"));
            if mode == SslMode::Prefer {
                let mut without = connected(config, None).await.unwrap();
                assert_eq!(session(&mut without).await, format!("{user} f walsender"));
            }
        }
        let wrong = connected(over_tcp(user, "b a"), None).await.err().unwrap();
        assert_eq!(wrong.sqlstate(), Some("28P01"), "{wrong}");
    }
    let mut config = over_tcp("bound", "a b");
    config.channel_binding(ChannelBinding::Require);
    let mut bound = connected(config.clone(), Some(tls.clone())).await.unwrap();
    assert_eq!(session(&mut bound).await, "bound t walsender");
    let error = connected(config, None).await.err().unwrap();
    assert!(!error.to_string().contains("a b"), "{error}");
    // A name that the certificate does not have.
    let mut config = over_tcp("scram", "a b");
    config.hostaddr("127.0.0.1".parse().unwrap()).ssl_mode(SslMode::Require);
    connected(config.clone(), Some(tls.clone())).await.unwrap();
    let mut other = Config::new();
    other.host("127.0.0.1").port(server.port()).user("scram").password("a b");
    other.dbname(database.name()).ssl_mode(SslMode::Require);
    assert!(connected(other, Some(tls)).await.is_err());
    // The first of several hosts that answers.
    let mut several = Config::new();
    several.host_path("/nowhere").port(1).host("localhost").port(server.port());
    several.user("scram").password("a b").dbname(database.name());
    connected(several, None).await.unwrap();
}

#[tokio::test]
async fn a_refusal_has_its_state() {
    let mut none = Config::new();
    none.host_path("/nowhere").user("postgres");
    assert!(matches!(connected(none, None).await, Err(ReplicationError::Lost(_))));
    let server = Postgres::start_with(&["wal_level=replica", "max_wal_senders=1"]).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("CREATE ROLE nobody_ LOGIN").await.unwrap();
    // The walsender of the last attempt may not have ended yet, and there is one.
    let refused = async |config: Config, expected: &str| {
        let asked = async {
            loop {
                let error = connected(config.clone(), None).await.err();
                if error.is_some_and(|error| error.sqlstate() == Some(expected)) {
                    return;
                }
            }
        };
        timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("it is not {expected}"));
    };
    refused(database.as_role("nobody_").config(), "42501").await;
    let mut elsewhere = database.config();
    elsewhere.dbname("nowhere");
    refused(elsewhere, "3D000").await;
    let connecting = async {
        loop {
            if let Ok(connection) = connected(database.config(), None).await {
                return connection;
            }
        }
    };
    let mut one = timeout(PATIENCE, connecting).await.unwrap();
    refused(database.config(), "53300").await;
    let slot = "CREATE_REPLICATION_SLOT \"a\" TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT";
    assert_eq!(one.run(slot).await.unwrap_err().sqlstate(), Some("55000"));
    // The session goes on after an error.
    assert_eq!(one.run("SELECT 'on'").await.unwrap(), [[Some("on".to_owned())]]);
}

/// Streams until all that was committed before this call has come. Returns the lines by transaction.
async fn streamed(
    connection: &mut ReplicationConnection,
    client: &tokio_postgres::Client,
) -> Vec<Vec<Line>> {
    let sql = "SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn";
    let row = client.query_one(&format!("SELECT ({sql})::text"), &[]).await.unwrap();
    let target: u64 = row.get::<_, &str>(0).parse().unwrap();
    let mut transactions: Vec<Vec<Line>> = vec![];
    // One question at a time: who asks more often than it reads falls behind for ever.
    let mut passed = 0;
    connection.confirm(passed, true).await.unwrap();
    while passed < target {
        match timeout(PATIENCE, connection.next()).await.unwrap().unwrap() {
            Streamed::Passed { upto, .. } => {
                passed = upto;
                if passed < target {
                    connection.confirm(passed, true).await.unwrap();
                }
            }
            Streamed::Change { text, is_whole, .. } => {
                match test_decoding::read(&text, is_whole, Encoding::Utf8) {
                    Line::Begin(_) => transactions.push(vec![]),
                    Line::Commit(_) => {}
                    line => transactions.last_mut().unwrap().push(line),
                }
            }
        }
    }
    transactions
}

#[tokio::test]
async fn the_names_of_what_was_written_are_read_from_the_stream() {
    let server = Postgres::start_with(LOGICAL).unwrap();
    let database = server.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA \"S.x\"; \
             CREATE TABLE \"S.x\".\"we: ird\"\"t\" (id int PRIMARY KEY, \"a: TRUNCATE: b\" text); \
             CREATE TABLE \"order\" (id int PRIMARY KEY); CREATE TABLE größe (id int PRIMARY KEY); \
             CREATE TABLE big (id int PRIMARY KEY, v text, w int); CREATE TABLE t$ (id int); \
             ALTER TABLE big ALTER v SET STORAGE EXTERNAL; ALTER TABLE t$ REPLICA IDENTITY FULL",
        )
        .await
        .unwrap();
    let mut connection = connected(database.config(), None).await.unwrap();
    let made = "CREATE_REPLICATION_SLOT \"s\" TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT";
    assert_eq!(connection.run(made).await.unwrap()[0].len(), 4);
    let start = "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (\"include-xids\" '1', \
                 \"skip-empty-xacts\" '0', \"include-timestamp\" '0')";
    connection.start(start).await.unwrap();
    let weird: &[(&str, &str)] = &[("S.x", "we: ird\"t")];
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("INSERT INTO \"S.x\".\"we: ird\"\"t\" VALUES (1, ': INSERT: '',')", weird),
        ("UPDATE \"S.x\".\"we: ird\"\"t\" SET id = 2, \"a: TRUNCATE: b\" = NULL", weird),
        ("INSERT INTO \"order\" VALUES (1)", &[("public", "order")]),
        ("INSERT INTO größe VALUES (1)", &[("public", "größe")]),
        ("INSERT INTO t$ VALUES (1)", &[("public", "t$")]),
        ("DELETE FROM t$", &[("public", "t$")]),
        ("INSERT INTO big VALUES (1, repeat('x', 3000000), 1)", &[("public", "big")]),
        ("UPDATE big SET w = 2", &[("public", "big")]),
        ("TRUNCATE \"order\", größe", &[("public", "order"), ("public", "größe")]),
        ("CREATE TABLE new (id int)", &[]),
    ];
    for (sql, expected) in cases {
        client.batch_execute(sql).await.unwrap();
        let transactions = streamed(&mut connection, &client).await;
        let expected: Vec<RelationName> =
            expected.iter().map(|(schema, name)| RelationName::of(schema, name)).collect();
        let changed: Vec<RelationName> = transactions
            .iter()
            .flatten()
            .flat_map(|line| match line {
                Line::Changes(names) => names.clone(),
                other => panic!("{sql}: {other:?}"),
            })
            .collect();
        assert_eq!((transactions.len(), changed), (1, expected), "{sql}");
    }
    client.batch_execute("SELECT pg_logical_emit_message(true, 'a, sz: b', 'x')").await.unwrap();
    let message = vec![vec![Line::Message("a".to_owned())]];
    assert_eq!(streamed(&mut connection, &client).await, message);
    // Many rows of one transaction, each read on its own.
    client.batch_execute("INSERT INTO \"order\" SELECT generate_series(1, 20000)").await.unwrap();
    let transactions = streamed(&mut connection, &client).await;
    let mut counts = BTreeMap::new();
    for line in &transactions[0] {
        *counts.entry(format!("{line:?}")).or_insert(0) += 1;
    }
    let order = Line::Changes(vec![RelationName::of("public", "order")]);
    assert_eq!(counts, BTreeMap::from([(format!("{order:?}"), 20_000)]));
}
