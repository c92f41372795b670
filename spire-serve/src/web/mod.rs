//! The web server: routes and what they share.

mod guard;
mod page;
mod problem;
mod prompt;
mod reply;
mod restore;
mod scenes;
mod server;
mod upload;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, ensure};
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use spire_model::restore::{ColourFix, SamplingConfig};
use spire_model::scheduler::SamplerKind;

use crate::jobs::order::{MOST_PICTURES, MOST_STEPS};
use crate::jobs::queue::{Bounds, Queue};
use crate::jobs::store::{KEPT, Store};
use crate::models::{Description, Model};
use crate::worker;
use guard::{Access, Admission};
use problem::Problem;
use reply::Reply;
use upload::Gate;

/// The bounds of the queue.
const BOUNDS: Bounds = Bounds { jobs: 64, jobs_of_client: 32 };

/// Where a server listens, and for whom.
#[derive(Clone, Debug)]
pub struct ServeSettings {
    /// The address to listen on. Unless it is a loopback address, a token is required.
    pub host: IpAddr,
    /// 0 for any free port.
    pub port: u16,
    /// The token that clients have to show; `None` for a random one where it is required.
    pub token: Option<String>,
}

/// What all requests share.
#[derive(Clone)]
struct Site {
    gate: Gate,
    store: Arc<Store>,
    queue: Arc<Queue>,
    models: Arc<Vec<Model>>,
    /// Descriptions and default sampling settings of the models.
    described: Arc<Vec<(Description, SamplingConfig)>>,
    access: Arc<Access>,
}

impl Site {
    /// A model by its name, or the first.
    fn model(&self, name: Option<&str>) -> Result<&Model, Problem> {
        let named = |model: &&Model| name.is_none_or(|name| model.description.name == name);
        self.models.iter().find(named).ok_or_else(|| Problem::no_such("model"))
    }
}

/// Serves the page and the interface for programs until `stop` is set. `listening` gets the address to open, with the token
/// if there is one.
///
/// # Errors
/// There is no model, or the address can't be listened on.
pub fn serve(
    models: Vec<Model>,
    settings: &ServeSettings,
    stop: &AtomicBool,
    listening: impl FnOnce(&str),
) -> Result<()> {
    ensure!(!models.is_empty(), "there is no model to serve");
    let described = models.iter().map(|model| (model.description.clone(), model.sampling.clone())).collect();
    let loopback = settings.host.is_loopback();
    let random = || (!loopback).then(|| format!("{:032x}", rand::random::<u128>()));
    let access = Access { token: settings.token.clone().or_else(random), loopback };
    let site = Site {
        gate: Gate::new(),
        store: Arc::default(),
        queue: Arc::new(Queue::new(BOUNDS)),
        models: Arc::new(models),
        described: Arc::new(described),
        access: Arc::new(access),
    };
    let worker = worker::start(site.queue.clone(), site.models.clone())?;
    let served = server::run(&site, settings, stop, listening);
    site.store.close();
    site.queue.close();
    // A panic of the worker was reported when it happened.
    let _ = worker.join();
    served
}

/// Answers a request.
async fn answer(site: &Site, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let admitted = site.access.admit(&head);
    let request = Request::from_parts(head, body);
    let answered = match admitted {
        Ok(Admission::Enter) => route(site, request).await,
        Ok(Admission::SetCookie(token)) => Ok(guard::enter_with_cookie(&token)),
        Err(problem) => Err(problem),
    };
    let mut reply = answered.unwrap_or_else(Reply::from);
    guard::protect(&mut reply);
    reply
}

/// Every page and every call; `openapi.json` describes the latter.
async fn route(site: &Site, request: Request<Incoming>) -> Result<Reply, Problem> {
    let uri = request.uri().clone();
    let query = uri.query().unwrap_or_default();
    let path: Vec<&str> = uri.path().split('/').skip(1).collect();
    let number = |text: &str| text.parse::<u64>().map_err(|_| Problem::no_such("page"));
    match (request.method(), path.as_slice()) {
        (&Method::GET, ["api", "models"]) => Ok(models(site)),
        (&Method::POST, ["api", "prompt"]) => prompt::answer(site, request).await,
        (&Method::GET, ["api", "scenes", n]) => scenes::scene(site, number(n)?, &upload::query(query)?),
        (&Method::GET, ["api", "scenes", n, "picture"]) => {
            scenes::picture(site, number(n)?, upload::query(query)?).await
        }
        (&Method::POST, ["api", "degrade"]) => scenes::degrade(site, request).await,
        (&Method::POST, ["api", "restore"]) => restore::order(site, request).await,
        (&Method::GET, ["api", "jobs", id]) => restore::job(site, id),
        (&Method::DELETE, ["api", "jobs", id]) => restore::cancel(site, id),
        (&Method::GET, ["api", "jobs", id, "events"]) => restore::events(site, id),
        (&Method::GET, ["api", "jobs", id, "pictures", n]) => restore::picture(site, id, number(n)? as usize),
        (&Method::GET, _) => page::file(uri.path()).ok_or_else(|| Problem::no_such("page")),
        (method, _) => {
            let message = format!("{method} is not possible here");
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, message))
        }
    }
}

/// `GET /api/models`: the models, what can be chosen, and the limits.
fn models(site: &Site) -> Reply {
    let models: Vec<&Description> = site.described.iter().map(|(description, _)| description).collect();
    let value = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "models": models,
        "samplers": SamplerKind::ALL,
        "colour_fixes": [ColourFix::None, ColourFix::Wavelet, ColourFix::Adain],
        "limits": {
            "bytes": upload::MOST_BYTES,
            "pixels": upload::MOST_PIXELS,
            "pictures": MOST_PICTURES,
            "steps": MOST_STEPS,
            "waiting_jobs": BOUNDS.jobs,
            "waiting_jobs_of_client": BOUNDS.jobs_of_client,
            "kept_seconds": KEPT.as_secs(),
        },
        "waiting": site.store.open(),
    });
    reply::json(StatusCode::OK, &value)
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::Value;

    use super::*;
    use crate::jobs::order::Order;

    /// The keys that a type accepts, from serde's complaint about another one.
    fn accepted<T: DeserializeOwned>() -> Vec<String> {
        let complaint = serde_json::from_str::<T>(r#"{"no such key": 0}"#).err().unwrap().to_string();
        complaint.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_description_of_the_interface_names_every_key() {
        let api: Value = serde_json::from_str(page::OPENAPI).unwrap();
        let described = |schema: &str| -> Vec<String> {
            let properties = &api["components"]["schemas"][schema]["properties"];
            properties.as_object().unwrap().keys().cloned().collect()
        };
        let sorted = |mut keys: Vec<String>| {
            keys.sort_unstable();
            keys
        };
        assert_eq!(sorted(described("Order")), sorted(accepted::<Order>()));
        assert_eq!(sorted(described("Degrading")), sorted(accepted::<scenes::Degrading>()));
        assert_eq!(sorted(described("Ask")), sorted(accepted::<prompt::Ask>()));
    }
}
