//! A connection that receives the notifications of the event trigger.

use std::future::poll_fn;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Config, Error, Socket};

use super::trigger::CHANNEL;

/// Connects, listens, and signals each notification, until the connection ends.
pub(crate) type Listen =
    Arc<dyn Fn(Arc<Notify>) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

pub(crate) fn over<C>(config: Config, tls: C) -> Listen
where
    C: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    C::Stream: Send,
    C::TlsConnect: Send,
    <C::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    Arc::new(move |heard| {
        let (config, tls) = (config.clone(), tls.clone());
        Box::pin(async move {
            let (client, mut connection) = config.connect(tls).await?;
            let notices = async {
                while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                    if let AsyncMessage::Notification(_) = message? {
                        heard.notify_one();
                    }
                }
                Ok(())
            };
            let listening = async {
                client.batch_execute(&format!("LISTEN {CHANNEL}")).await?;
                // Notifications from before `LISTEN` are not delivered, so signal once.
                heard.notify_one();
                std::future::pending::<Result<(), Error>>().await
            };
            tokio::select! {
                ended = notices => ended,
                failed = listening => failed,
            }
        })
    })
}
