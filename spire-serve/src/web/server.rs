//! Connections.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{ServeSettings, Site, answer};

/// The most open connections; others wait in the system's queue.
const CONNECTIONS: usize = 512;

/// A connection has this long to send the head of its next request.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// How often the store is tended and the end is looked for.
const TICK: Duration = Duration::from_millis(200);

/// The address of a client.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Accepts connections until `stop` is set.
///
/// # Errors
/// The address can't be listened on.
pub fn run(site: &Site, settings: &ServeSettings, stop: &AtomicBool, listening: impl FnOnce(&str)) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let query = site.access.token.as_ref().map_or_else(String::new, |token| format!("?token={token}"));
    let served = runtime.block_on(async {
        let address = SocketAddr::new(settings.host, settings.port);
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("can't listen on {address}; choose another with --port"))?;
        let mut shown = listener.local_addr()?;
        if shown.ip().is_unspecified() {
            // No browser opens this address; the loopback is part of it.
            shown.set_ip(if shown.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        listening(&format!("http://{shown}/{query}"));
        accept(&listener, site, stop).await;
        Ok(())
    });
    // Connections end here, also those that wait for a picture.
    runtime.shutdown_background();
    served
}

async fn accept(listener: &TcpListener, site: &Site, stop: &AtomicBool) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut tended = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if tended.elapsed() >= TICK {
            tended = Instant::now();
            if site.store.tend(tended) {
                site.queue.sweep();
            }
        }
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        match timeout(TICK, next).await {
            Ok((Ok(place), Ok((stream, peer)))) => {
                tokio::spawn(connection(stream, peer, site.clone(), place));
            }
            // The system is out of descriptors, or the client is gone already.
            Ok((_, Err(error))) => {
                tracing::debug!("a connection was not accepted: {error}");
                tokio::time::sleep(TICK).await;
            }
            Ok((Err(_), _)) | Err(_) => {}
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, site: Site, _place: OwnedSemaphorePermit) {
    // Events are small and must not wait for more.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer.ip()));
        let site = &site;
        async move { Ok::<_, Infallible>(answer(site, request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE);
    // Errors are those of clients that are gone or do not speak HTTP.
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a connection ended: {error}");
    }
}
