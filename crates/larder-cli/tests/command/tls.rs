//! Servers that speak TLS.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::servers::{Authority, OverTls, Postgres};
use crate::support::{Ran, larder, run};

fn put(path: &Path, text: &str) -> String {
    fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn check(trusted: &str, arguments: &[&str]) -> Ran {
    let mut command = larder(["check", "--json"].iter().chain(arguments));
    command.env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
    run(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_asked_over_tls_and_an_unknown_authority_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let Some(server) = OverTls::start(&authority, false).unwrap() else { return };
    let (url, trusted) = (&*server.url, server.ca().to_str().unwrap().to_owned());
    let ran = check(&trusted, &["--redis", url, "--namespace", "shop"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    // A cache, too, not the command's questions alone.
    assert!(ran.out.contains("scripts run"), "{}", ran.out);
    let stranger = Authority::new().unwrap();
    let stranger = put(&directory.path().join("stranger.pem"), stranger.certificate());
    let ran = check(&stranger, &["--redis", url, "--namespace", "shop"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("invalid peer certificate"), "{}", ran.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_asked_over_tls_if_sslmode_requires_it() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let trusted = put(&directory.path().join("ca.pem"), authority.certificate());
    let server = authority.sign("localhost").unwrap();
    // The port is the same for all clusters of the tests, so the address has to be its own.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let address = format!("127.{}.{b}.{c}", 1 + a % 200);
    let cluster = Postgres::start_with(&[&format!("listen_addresses={address}")]).unwrap();
    let data = cluster.directory().join("data");
    let owner = fs::metadata(&data).unwrap();
    for (name, text) in [("server.crt", server.certificate), ("server.key", server.key)] {
        let path = data.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let database = cluster.database().await.unwrap();
    let client = database.connect().await.unwrap();
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    crate::support::until("ssl is on", async || {
        let row = client.query_one("SHOW ssl", &[]).await.unwrap();
        row.get::<_, &str>(0) == "on"
    })
    .await;
    let words =
        format!("host=localhost hostaddr={address} user=postgres dbname={}", database.name());
    let with = |mode: &str| format!("{words} sslmode={mode}");
    for mode in ["require", "verify-full"] {
        let ran = check(&trusted, &["--postgres", &with(mode)]).await;
        assert_eq!(ran.code, 0, "{mode}: {}{}", ran.out, ran.err);
        let view = "CREATE MATERIALIZED VIEW IF NOT EXISTS one AS SELECT 1 AS id";
        client.batch_execute(view).await.unwrap();
        let mut refresh = larder(["refresh", "one", "--plain", "--postgres", &with(mode)]);
        refresh.env("SSL_CERT_FILE", &trusted);
        assert_eq!(run(refresh).await.code, 0);
        client.batch_execute("DROP MATERIALIZED VIEW one").await.unwrap();
    }
    let stranger = Authority::new().unwrap();
    let stranger = put(&directory.path().join("stranger.pem"), stranger.certificate());
    let ran = check(&stranger, &["--postgres", &with("require")]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("invalid peer certificate"), "{}", ran.out);

    // The authorities in a file that the connection string names, and no others.
    for mode in ["require", "verify-ca", "verify-full", "prefer"] {
        let right = format!("{} sslrootcert={trusted}", with(mode));
        let ran = check(&stranger, &["--postgres", &right]).await;
        assert_eq!(ran.code, 0, "{mode}: {}{}", ran.out, ran.err);
        assert_eq!(ran.err.contains("sslmode=verify-ca"), mode == "verify-ca", "{}", ran.err);
        let wrong = format!("{} sslrootcert={stranger}", with(mode));
        let ran = check(&trusted, &["--postgres", &wrong]).await;
        assert_eq!(ran.code, 1, "{mode}");
        assert!(ran.out.contains("invalid peer certificate"), "{mode}: {}", ran.out);
    }
    let missing = format!("{} sslrootcert=/nonexistent/hunter2", with("require"));
    let ran = check(&trusted, &["--postgres", &missing]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("sslrootcert") && !ran.err.contains("hunter2"), "{}", ran.err);
    assert_client_certificates_are_presented(&cluster, &client, &words, &directory).await;
}

/// A server that trusts whoever has a certificate of its authority for the user `postgres`.
async fn assert_client_certificates_are_presented(
    cluster: &Postgres,
    client: &tokio_postgres::Client,
    words: &str,
    directory: &tempfile::TempDir,
) {
    let authority = Authority::new().unwrap();
    let user = authority.sign("postgres").unwrap();
    let data = cluster.directory().join("data");
    let owner = fs::metadata(&data).unwrap();
    fs::write(data.join("clients.crt"), authority.certificate()).unwrap();
    chown(data.join("clients.crt"), Some(owner.uid()), Some(owner.gid())).unwrap();
    let hba = "local all all trust\nhostssl all all all cert\n";
    fs::write(data.join("pg_hba.conf"), hba).unwrap();
    client.batch_execute("ALTER SYSTEM SET ssl_ca_file = 'clients.crt'").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let trusted = directory.path().join("ca.pem");
    let certificate = put(&directory.path().join("user.crt"), &user.certificate);
    let key = put(&directory.path().join("user.key"), &user.key);
    let words = format!("{words} sslmode=verify-full sslrootcert={}", trusted.display());
    let without = || async { check("/nonexistent", &["--postgres", &words]).await };
    crate::support::until("a certificate is asked for", async || without().await.code == 1).await;
    let with = format!("{words} sslcert={certificate} sslkey={key}");
    let ran = check("/nonexistent", &["--postgres", &with]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
}
