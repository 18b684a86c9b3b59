//! [`Interrupts`]: Ctrl-C asks for what there is so far, and a second one for the end.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::super::failure::Failure;

/// Whether the user has had enough. Clones hear of it as well.
#[derive(Clone)]
pub(super) struct Interrupts(watch::Receiver<bool>);

impl Interrupts {
    /// From here on neither Ctrl-C nor a polite request to end ends this process.
    pub(super) fn listen() -> Result<Interrupts, Failure> {
        let hear = |kind| {
            signal(kind)
                .map_err(|error| Failure::other(format!("cannot listen to signals: {error}")))
        };
        let (mut interrupt, mut terminate) =
            (hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?);
        let (send, receive) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if send.send_replace(true) {
                    eprintln!(
                        "ended at once; larder bench --clean drops what is left in PostgreSQL"
                    );
                    std::process::exit(130);
                }
            }
        });
        Ok(Interrupts(receive))
    }

    /// None ever come.
    #[cfg(test)]
    pub(super) fn none() -> Interrupts {
        Interrupts(watch::channel(false).1)
    }

    pub(super) fn has_come(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the first.
    pub(super) async fn come(&mut self) {
        // It ends with the runtime; until then nothing has come.
        if self.0.wait_for(|come| *come).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
