//! The event trigger that tells of every refresh, whoever makes it.

use super::error::RefreshError;
use super::session::Session;

/// The channel on which it tells.
pub(crate) const CHANNEL: &str = "larder_refresh";

/// What is installed. A failing event trigger would fail everybody's refreshes, so what goes wrong
/// in it is swallowed: the notice is lost then, and polling notices the refresh.
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

/// Runs all of it or nothing.
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
