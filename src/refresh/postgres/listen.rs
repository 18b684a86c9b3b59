//! A connection that receives the notifications of the event trigger.

use std::error::Error as _;
use std::future::poll_fn;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Config, Error, Socket};

use super::credentials::PostgresCredentials;
use super::finding::{Finding, FindingKind};
use super::trigger::CHANNEL;
use crate::credentials::CredentialsProvider;
use crate::error::BoxError;

/// What happens on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It listens from now on. Notifications from before are not delivered.
    Listening,
    Notification,
}

/// Connects, listens, and reports each notification, until the connection ends.
pub(crate) type Listen = Arc<
    dyn Fn(
            Option<CredentialsProvider<PostgresCredentials>>,
            Arc<dyn Fn(Heard) + Send + Sync>,
        ) -> BoxFuture<'static, Result<(), NotListening>>
        + Send
        + Sync,
>;

/// Why there is no connection, or no longer.
pub(crate) enum NotListening {
    NoCredentials(BoxError),
    Postgres(Error),
}

impl From<Error> for NotListening {
    fn from(error: Error) -> NotListening {
        NotListening::Postgres(error)
    }
}

pub(crate) fn over<C>(config: Config, tls: C) -> Listen
where
    C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    C::Stream: Send,
    C::TlsConnect: Send,
    <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Arc::new(move |provider, heard| {
        let (mut config, tls) = (config.clone(), tls.clone());
        Box::pin(async move {
            if let Some(provider) = provider {
                let credentials = provider.ask().await.map_err(NotListening::NoCredentials)?;
                config.user(credentials.user).password(credentials.password);
            }
            let (client, mut connection) = config.connect(tls).await?;
            let notices = async {
                while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                    if let AsyncMessage::Notification(_) = message? {
                        heard(Heard::Notification);
                    }
                }
                Ok::<(), Error>(())
            };
            let listening = async {
                client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
                heard(Heard::Listening);
                std::future::pending::<Result<(), Error>>().await
            };
            tokio::select! {
                ended = notices => ended?,
                failed = listening => failed?,
            }
            Ok(())
        })
    })
}

impl NotListening {
    /// What is missing, why, and what to do. It shows no password.
    pub(crate) fn finding(&self) -> Finding {
        let reason = match self {
            NotListening::NoCredentials(error) => format!(
                "the closure of `listen_credentials` failed ({error}); it is asked again at the next \
                 attempt"
            ),
            NotListening::Postgres(error) => refusal(error),
        };
        Finding::new(
            FindingKind::NotListening,
            format!(
                "refreshes by others are noticed by polling only, because the connection of `listen` \
                 {reason}"
            ),
        )
    }
}

fn refusal(error: &Error) -> String {
    let Some(db) = error.as_db_error() else {
        // A message of the driver or of the system.
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        return match source.as_str() {
            "" => format!("failed: {error}"),
            "password missing" => {
                "has no password, and postgresql asks for one: give it in the configuration, or at each \
                 connect by `listen_credentials`"
                    .to_owned()
            }
            source => format!("failed: {error} ({source})"),
        };
    };
    let advice = match *db.code() {
        SqlState::INVALID_PASSWORD => {
            "postgresql refuses its password: correct it, or give the current one at each connect by \
             `listen_credentials`"
        }
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "postgresql refuses its user: check that the role exists, may log in (`ALTER ROLE .. \
             LOGIN`), and that pg_hba.conf has a line for this user, database and address"
        }
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "the user lacks a right: `GRANT CONNECT ON DATABASE` allows it to connect"
        }
        _ => "it is tried again",
    };
    format!("failed: {} (SQLSTATE {}); {advice}", db.message(), db.code().code())
}
