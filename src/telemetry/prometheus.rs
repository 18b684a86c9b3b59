//! [`PrometheusEndpoint`]: an HTTP endpoint with the cache's metrics.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::runtime;
use tokio::sync::oneshot;

/// Bounds of the buckets: from a lookup in a nearby Redis to a report that takes minutes.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

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
/// one, so the metrics of other libraries are served as well. A program with a recorder of its own,
/// for any system, needs no endpoint, because that recorder has the cache's metrics. Its histograms
/// whose names end in `_seconds` should then have buckets from 50 µs to minutes.
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

/// Why the endpoint could not be started.
#[derive(Debug)]
pub struct EndpointError {
    address: String,
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
        let error = |why: String| EndpointError { address: address.to_owned(), why };
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
            let exporter = install(address)?;
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

/// Listens, and installs the recorder of this process.
fn install(address: SocketAddr) -> Result<Exporter, String> {
    let builder = PrometheusBuilder::new()
        .with_http_listener(address)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .map_err(|error| error.to_string())?;
    let (recorder, exporter) = builder.build().map_err(|error| {
        format!("{error}; is another process, or another endpoint of this one, listening there?")
    })?;
    metrics::set_global_recorder(recorder).map_err(|_| {
        "this process has a recorder for the metrics facade already: they are told to that one, and \
         an endpoint is not needed"
            .to_owned()
    })?;
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
        write!(f, "cannot serve metrics at {:?}: {}", self.address, self.why)
    }
}

impl std::error::Error for EndpointError {}
