//! Roles and settings that cannot be set.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_refuses_is_named_and_no_value_is_shown() {
    let shop = Shop::new().await;
    let pool = shop.web().pool(1);
    let before = state(&pool).await;
    let cache = local().await;
    let base = cache.query(SQL);
    let pid = cache.query("SELECT pg_backend_pid()");
    let session: i32 = pid.fetch(&pool).await.unwrap().row(0).get(0);
    let admin = shop.database.connect().await.unwrap();
    let stranger = format!("stranger_{}", shop.database.name());
    admin.batch_execute(&format!("CREATE ROLE {stranger}")).await.unwrap();
    let set = |name: &'static str, value: &'static str| {
        base.clone().with_setting("app.key", "hunter2").with_setting(name, value)
    };
    for (query, code, expected) in [
        (base.clone().as_role("nobody at all"), "22023", "\"nobody at all\""),
        (base.clone().as_role("nobody at all"), "22023", "there is no such role"),
        (base.clone().as_role(&stranger), "42501", &*format!("GRANT \"{stranger}\" TO")),
        (set("time_zne", "hunter2"), "42704", "the setting `time_zne` of the query"),
        (set("IntervalStyle", "hunter2"), "22023", "the setting `IntervalStyle` of the query"),
        (set("search_path", "\"hunter2"), "22023", "the setting `search_path` of the query"),
        (set("shared_buffers", "hunter2"), "55P02", "`shared_buffers`"),
        (set("wal_level", "hunter2"), "55P02", "`wal_level`"),
        (set("log_min_messages", "debug1"), "42501", "GRANT SET ON PARAMETER"),
        (set("app.a b", "hunter2"), "42602", "`app.a b`"),
        (base.clone().as_role(&shop.app).with_setting("app.tenant", "hunter2"), "22P02", ""),
    ] {
        let error = query.fetch(&pool).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Query, "{error}");
        assert_eq!(error.sqlstate().unwrap().code(), code, "{query:?}: {error}");
        assert!(error.to_string().contains(expected), "{error}");
        let shown = format!("{error} {error:?} {query:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(state(&pool).await, before);
    }
    // No connection was lost by it.
    cache.clear().await.acknowledged().unwrap();
    assert_eq!(pid.fetch(&pool).await.unwrap().row(0).get::<_, i32>(0), session);
    let read = base.bind(1).with_setting("app.key", "hunter2");
    assert!(!format!("{read:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_set_is_an_error_before_anything_is_sent() {
    // There is no server.
    let mut config = tokio_postgres::Config::new();
    config.host_path("/nonexistent").user("nobody");
    let pool = Pool::builder(deadpool_postgres::Manager::new(config, NoTls)).build().unwrap();
    let cache = local().await;
    let query = cache.query("SELECT 1");
    for (name, value) in [
        ("", "1"),
        ("app\0tenant", "1"),
        ("app.tenant", "1\0"),
        ("ROLE", "postgres"),
        ("session_authorization", "postgres"),
        ("transaction_isolation", "serializable"),
        ("default_transaction_read_only", "on"),
        ("Client_Encoding", "LATIN1"),
    ] {
        let errors = [
            query.clone().with_setting(name, value).fetch(&pool).await.unwrap_err(),
            query.params(()).with_setting(name, value).fetch(&pool).await.unwrap_err(),
            query
                .clone()
                .with_setting(name, value)
                .params(())
                .as_role("a")
                .fetch(&pool)
                .await
                .unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Setting, "{name}: {error}");
        }
    }
    for role in ["", "none", "a\0b"] {
        let error = query.params(()).as_role(role).fetch(&pool).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setting, "{role}: {error}");
    }
    // A query function runs the query itself.
    let query = query.with_setting("app.tenant", "7");
    let load = || async { Ok::<_, std::io::Error>(7_i32) };
    let wrapped = query.clone().wrap(|_, ()| async { Ok::<_, std::io::Error>(7_i32) });
    for error in [query.load(load).await.unwrap_err(), wrapped.call(()).await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Setting);
        assert!(error.to_string().contains("`scope`"), "{error}");
    }
    // Statements that others send on a shared client would run in the transaction.
    let client = Arc::new(database().await.connect().await.unwrap());
    let error = query.fetch(&client).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Setting);
    assert!(error.to_string().contains("Mutex<Client>"), "{error}");
    assert_eq!(cache.stats().loads, 1, "only the last one came that far");
}
