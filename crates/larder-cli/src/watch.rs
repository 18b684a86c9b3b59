//! `larder watch`.

mod app;
mod draw;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use self::app::App;
use super::config::Config;
use super::failure::Failure;
use super::{connect, stats};
use larder::QueryCache;

/// Watch a running fleet on the terminal
///
/// The processes must publish their numbers: .publish_stats(Duration::from_secs(1)) in the builder
/// of each. Shown are rates per second: what reads were answered by, hit ratio, latencies, loads,
/// invalidations, materialized views with what comes next, queries and processes.
#[derive(Args)]
#[command(after_long_help = "\
Keys:
  q, Esc, Ctrl-C   end
  s, Left, Right   sort the queries by something else
  Up, Down         scroll them
  ?                what the keys do

Without a terminal: larder stats --interval 5s")]
pub(super) struct Watch {
    /// How often to ask
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = stats::read_interval)]
    interval: Duration,
}

/// How long the thread that reads keys waits before it looks whether anybody still listens.
const KEYS: Duration = Duration::from_millis(100);

impl Watch {
    pub(super) async fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        if !std::io::stdout().is_terminal() {
            return Err(Failure::usage(
                "there is no terminal to draw on; larder stats --interval 5s prints lines",
            ));
        }
        let namespace = config.namespace()?.to_owned();
        let cache = connect::cache(config).await?;
        // Restores the terminal on a panic, too.
        let terminal = ratatui::try_init()
            .map_err(|error| Failure::other(format!("the terminal cannot be drawn on: {error}")))?;
        let outcome = watch(terminal, &cache, namespace, self.interval).await;
        ratatui::restore();
        cache.shutdown().await;
        outcome.map(|()| ExitCode::SUCCESS)
    }
}

async fn watch(
    mut terminal: DefaultTerminal,
    cache: &QueryCache,
    namespace: String,
    every: Duration,
) -> Result<(), Failure> {
    let mut app = App::new(namespace);
    let mut keys = keys();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Ctrl-C is a key while the terminal is drawn on; these come from elsewhere.
    let mut ended = std::pin::pin!(ended());
    loop {
        tokio::select! {
            () = &mut ended => return Ok(()),
            _ = ticks.tick() => app.observe(cache.fleet_stats().await.ok()),
            key = keys.recv() => match key {
                None => return Ok(()),
                Some(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                    if ends(key) {
                        return Ok(());
                    }
                    app.press(key.code);
                }
                // A new size, above all: it is drawn anew below.
                Some(_) => {}
            },
        }
        let drawn = terminal.draw(|frame| draw::draw(&app, frame));
        drawn
            .map_err(|error| Failure::other(format!("the terminal cannot be drawn on: {error}")))?;
    }
}

fn ends(key: KeyEvent) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => key.modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// Waits until somebody asks this process to end.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};

    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
}

/// Keys come on a thread of their own: waiting for one blocks.
fn keys() -> mpsc::Receiver<Event> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !send.is_closed() {
            let event = match event::poll(KEYS) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let Ok(event) = event else { return };
            if send.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receive
}
