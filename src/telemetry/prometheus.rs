//! [`PrometheusEndpoint`]: an HTTP endpoint with the cache's metrics. [`PrometheusRecorder`]: their text,
//! for an endpoint of the program's own.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder as Exposition,
};
use tokio::runtime;
use tokio::sync::oneshot;

use crate::telemetry::metrics::DURATION_BUCKETS;

/// Serves the metrics of this process to Prometheus, in plain HTTP, until it is dropped.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{PrometheusEndpoint, QueryCache};
///
/// let _endpoint = PrometheusEndpoint::start("127.0.0.1:9464")?;
/// let cache = QueryCache::builder().build().await?;
/// // curl http://127.0.0.1:9464/metrics
/// # Ok(())
/// # }
/// ```
///
/// It installs a recorder of the [`metrics`](https://docs.rs/metrics) facade. A process has only
/// one, so the metrics of other libraries are served as well. A program that listens on a port already
/// serves the text of a [`PrometheusRecorder`] there instead. A program with a recorder of its own, for
/// any system, needs neither, because that recorder has the cache's metrics. Its histograms should then
/// have the buckets [`DURATION_BUCKETS`](crate::DURATION_BUCKETS).
///
/// It runs on its own thread, so it answers while the program's runtime is busy. Caches may be
/// built before or after it starts.
#[must_use = "it ends when it is dropped"]
pub struct PrometheusEndpoint {
    address: SocketAddr,
    /// The thread ends when this is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The metrics of this process as text for Prometheus, for an endpoint of the program's own. Clones are
/// of the same recorder.
///
/// ```
/// # use std::time::{Duration, Instant};
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use larder::{PrometheusRecorder, QueryCache};
///
/// let recorder = PrometheusRecorder::install()?;
/// let cache = QueryCache::builder().namespace("shop").build().await?;
/// # let begun = Instant::now();
/// # while !recorder.render().contains("larder_entries{") {
/// #     assert!(begun.elapsed() < Duration::from_secs(60));
/// #     tokio::time::sleep(Duration::from_millis(5)).await;
/// # }
/// // With axum: `.route("/metrics", get(move || async move { recorder.render() }))`
/// let text = recorder.render();
/// assert!(text.contains("larder_entries{namespace=\"shop\"} 0"));
/// # Ok(())
/// # }
/// ```
///
/// It is the recorder of the [`metrics`](https://docs.rs/metrics) facade. A process has only one, so the
/// metrics of other libraries are in the text as well. It stays for as long as the process runs.
#[derive(Clone)]
pub struct PrometheusRecorder {
    handle: PrometheusHandle,
    /// The thread of the upkeep ends when this is dropped.
    _upkeep: Arc<mpsc::Sender<()>>,
}

/// How often the durations that have been recorded are summed up, if nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

impl PrometheusRecorder {
    /// Installs the recorder. Caches may be built before or after.
    ///
    /// # Errors
    ///
    /// This process already has a recorder.
    pub fn install() -> Result<PrometheusRecorder, EndpointError> {
        let error = |why| EndpointError { address: None, why };
        let recorder = builder().map_err(error)?.build_recorder();
        let handle = recorder.handle();
        install(recorder).map_err(error)?;
        let (alive, until) = mpsc::channel();
        let upkeep = handle.clone();
        thread::Builder::new()
            .name("larder-metrics".to_owned())
            .spawn(move || {
                while until.recv_timeout(UPKEEP) == Err(mpsc::RecvTimeoutError::Timeout) {
                    upkeep.run_upkeep();
                }
            })
            .map_err(|it| error(format!("there is no thread for it: {it}")))?;
        Ok(PrometheusRecorder { handle, _upkeep: Arc::new(alive) })
    }

    /// The metrics as they are now, in the text format of Prometheus. The `Content-Type` of a reply with
    /// it is `text/plain; version=0.0.4`. Counters of a cache are up to a second old.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

impl fmt::Debug for PrometheusRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusRecorder").finish_non_exhaustive()
    }
}

/// Why the metrics cannot be served.
#[derive(Debug)]
pub struct EndpointError {
    /// Where they should be, if not at an endpoint of the program's own.
    address: Option<String>,
    why: String,
}

impl PrometheusEndpoint {
    /// Serves at an address: host and port, such as `127.0.0.1:9464`, or `0.0.0.0:9464` for all
    /// interfaces. Every path returns the metrics. There is no authentication: choose an address
    /// that only Prometheus can reach.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on, or this process already has a recorder. An endpoint that
    /// was started before counts as one, even if it has ended.
    pub fn start(address: &str) -> Result<PrometheusEndpoint, EndpointError> {
        let error = |why: String| EndpointError { address: Some(address.to_owned()), why };
        let resolved = address
            .to_socket_addrs()
            .map_err(|it| format!("{it}; a host and a port are needed, such as 127.0.0.1:9464"))
            .and_then(|mut all| all.next().ok_or_else(|| "the host has no address".to_owned()))
            .map_err(error)?;
        if resolved.port() == 0 {
            return Err(error("Prometheus has to know the port: name one".to_owned()));
        }
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("larder-metrics".to_owned())
            .spawn(move || serve(resolved, stopped, &tell))
            .map_err(|it| error(format!("there is no thread for it: {it}")))?;
        let started = told.recv().unwrap_or_else(|_| Err("its thread has panicked".to_owned()));
        started.map_err(error)?;
        Ok(PrometheusEndpoint { address: resolved, stop: Some(stop), thread: Some(thread) })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(
    address: SocketAddr,
    stopped: oneshot::Receiver<()>,
    tell: &mpsc::Sender<Result<(), String>>,
) {
    let started = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("there is no runtime for it: {error}"))
        .and_then(|runtime| {
            let _inside = runtime.enter();
            let exporter = listen(address)?;
            drop(_inside);
            Ok((runtime, exporter))
        });
    match started {
        Err(why) => drop(tell.send(Err(why))),
        Ok((runtime, exporter)) => {
            let _ = tell.send(Ok(()));
            runtime.block_on(async {
                tokio::select! {
                    _ = exporter => {}
                    _ = stopped => {}
                }
            });
        }
    }
}

type Exporter = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn builder() -> Result<PrometheusBuilder, String> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), DURATION_BUCKETS)
        .map_err(|error| error.to_string())
}

/// Makes it the recorder of this process.
fn install(recorder: Exposition) -> Result<(), String> {
    metrics::set_global_recorder(recorder).map_err(|_| {
        "this process has a recorder for the metrics facade already: they are told to that one, and \
         another is not needed"
            .to_owned()
    })
}

/// Listens, and installs the recorder of this process.
fn listen(address: SocketAddr) -> Result<Exporter, String> {
    let (recorder, exporter) = builder()?.with_http_listener(address).build().map_err(|error| {
        format!("{error}; is another process, or another endpoint of this one, listening there?")
    })?;
    install(recorder)?;
    Ok(Box::pin(async move {
        let _ = exporter.await;
    }))
}

impl Drop for PrometheusEndpoint {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Wait for the thread, so that the address is free when this returns.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for PrometheusEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrometheusEndpoint").field("address", &self.address).finish()
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(f, "cannot serve metrics at {address:?}: {}", self.why),
            None => write!(f, "cannot record metrics for Prometheus: {}", self.why),
        }
    }
}

impl std::error::Error for EndpointError {}
