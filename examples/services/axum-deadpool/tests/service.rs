//! The service as a process, against private servers; see the crate `scenes`.

use scenes as scene;

const PROGRAM: &str = env!("CARGO_BIN_EXE_axum-deadpool");

macro_rules! scenes {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            scene::$name(PROGRAM).await;
        }
    )*};
}

scenes! {
    reports_come_from_memory_and_from_redis
    an_order_makes_exactly_the_report_of_orders_stale
    tenants_never_see_each_others_rows
    the_ranking_follows_its_view
    metrics_and_health_are_served_on_the_same_port
    failures_have_their_status
    a_request_under_way_is_answered_before_the_end
    nothing_fails_while_redis_is_away
}
