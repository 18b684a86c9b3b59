//! The event trigger that sends a notification for every refresh, no matter which session makes it.

use super::error::RefreshError;
use super::session::Session;

/// The channel of the notifications.
pub(crate) const CHANNEL: &str = "larder_refresh";

/// Installs the event trigger. If it failed, it would fail the refreshes of everybody, so its
/// function ignores errors. A notification is lost then, and polling detects the refresh.
pub(crate) const INSTALL: &str = "\
CREATE SCHEMA IF NOT EXISTS larder;
CREATE OR REPLACE FUNCTION larder.tell_of_refresh() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog AS $larder$
DECLARE
  command record;
BEGIN
  FOR command IN SELECT objid FROM pg_event_trigger_ddl_commands() LOOP
    PERFORM pg_notify('larder_refresh', command.objid::text);
  END LOOP;
EXCEPTION WHEN OTHERS THEN
  NULL;
END
$larder$;
DROP EVENT TRIGGER IF EXISTS larder_refresh;
CREATE EVENT TRIGGER larder_refresh ON ddl_command_end
  WHEN TAG IN ('REFRESH MATERIALIZED VIEW')
  EXECUTE FUNCTION larder.tell_of_refresh();
";

pub(crate) const REMOVE: &str = "\
DROP EVENT TRIGGER IF EXISTS larder_refresh;
DROP FUNCTION IF EXISTS larder.tell_of_refresh();
DO $larder$ BEGIN
  DROP SCHEMA IF EXISTS larder;
EXCEPTION WHEN dependent_objects_still_exist THEN
  NULL;
END $larder$;
";

/// Runs all statements, or none of them.
pub(crate) async fn run(session: &mut Session, sql: &str) -> Result<(), RefreshError> {
    let failed = |error| RefreshError::of_postgres("larder_refresh", error);
    session.begin("").await.map_err(failed)?;
    match session.run(sql).await {
        Ok(()) => session.commit().await.map_err(failed),
        Err(error) => {
            let _ = session.roll_back().await;
            Err(failed(error))
        }
    }
}
