//! Scenes of the illustrated world, and degradations to try: Algorithm 1 with chosen or drawn steps, and Real-ESRGAN.

use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use spire_core::rng::rng;
use spire_core::{Picture, png_text};
use spire_data::degrade::{self, DegradationConfig, ParameterizedConfig};
use spire_data::prompt::{self, REMOVE_ALL, Step};
use spire_data::world::{World, WorldConfig};

use super::Site;
use super::problem::Problem;
use super::reply::{Reply, content, json};

/// The largest scene that is drawn, pixels.
const LARGEST: usize = 1024;

/// The smallest scene in which objects can be recognised, pixels.
const SMALLEST: usize = 64;

/// Scenes from this one on are never trained on: training takes the first 100,000.
const HELD_OUT: u64 = 1 << 32;

/// A scene.
#[derive(Clone, Debug, Serialize)]
pub struct Described {
    scene: u64,
    caption: String,
    /// Width and height of its picture.
    side: usize,
}

/// How to degrade a picture.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Degrading {
    pipeline: Pipeline,
    /// The steps of the pipeline `chosen`, as a restoration prompt with numbers.
    prompt: Option<String>,
    /// Seed of everything random.
    seed: u64,
    /// The model whose training settings draw steps and prompts; the first by default.
    model: Option<String>,
    /// Side of a scene's picture; the model's by default.
    side: Option<usize>,
}

/// Where the degradation comes from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Pipeline {
    /// The steps that `prompt` names; without it the picture stays as it is.
    #[default]
    Chosen,
    /// Algorithm 1 draws the steps.
    Drawn,
    /// Real-ESRGAN's second-order process.
    RealEsrgan,
}

/// `GET /api/scenes/{n}`
pub fn scene(site: &Site, scene: u64, degrading: &Degrading) -> Result<Reply, Problem> {
    let side = degrading.side(site)?;
    Ok(json(StatusCode::OK, &Described { scene, caption: draw(scene).caption, side }))
}

/// `GET /api/scenes/{n}/picture`: the clean scene, or degraded as the query asks.
pub async fn picture(site: &Site, scene: u64, degrading: Degrading) -> Result<Reply, Problem> {
    let side = degrading.side(site)?;
    let trained = degrading.trained(site)?;
    let made = site.gate.compute(move || degrading.apply(&draw(scene).draw(side), &trained)).await??;
    Ok(made.into())
}

/// `POST /api/degrade`: an uploaded picture, degraded.
pub async fn degrade(site: &Site, request: Request<Incoming>) -> Result<Reply, Problem> {
    let form = site.gate.form::<Degrading>(request).await?;
    let clean = site.gate.check(&form.uploads.picture, "the picture", 1.0).await?;
    let trained = form.fields.trained(site)?;
    let made = site.gate.compute(move || form.fields.apply(&clean, &trained)).await??;
    Ok(made.into())
}

fn draw(scene: u64) -> spire_data::world::Scene {
    World::new(WorldConfig::default()).scene(HELD_OUT.wrapping_add(scene))
}

/// A degraded picture as a PNG, the steps that were taken as a prompt, and the prompt that training would pair with it.
struct Made {
    png: Vec<u8>,
    steps: Option<String>,
    prompt: String,
}

impl From<Made> for Reply {
    fn from(made: Made) -> Self {
        let mut reply = content("image/png", made.png);
        for (name, text) in [("x-steps", made.steps.unwrap_or_default()), ("x-restoration-prompt", made.prompt)] {
            // Prompts that this program writes are ASCII.
            if let Ok(value) = HeaderValue::from_str(&text) {
                reply.headers_mut().insert(HeaderName::from_static(name), value);
            }
        }
        reply
    }
}

impl Degrading {
    fn side(&self, site: &Site) -> Result<usize, Problem> {
        let side = self.side.unwrap_or(site.model(self.model.as_deref())?.description.side);
        Ok(side.clamp(SMALLEST, LARGEST))
    }

    fn trained(&self, site: &Site) -> Result<ParameterizedConfig, Problem> {
        Ok(site.model(self.model.as_deref())?.restorer.trained.clone())
    }

    fn apply(&self, clean: &Picture, trained: &ParameterizedConfig) -> Result<Made, Problem> {
        let mut random = rng(self.seed, "degrade", 0);
        let (picture, steps, prompt) = match (self.pipeline, &self.prompt) {
            (Pipeline::Chosen, None) => (clean.clone(), None, REMOVE_ALL.to_owned()),
            (Pipeline::Chosen, Some(text)) => {
                let steps = prompt::parse_steps(text).map_err(Problem::bad)?;
                steps.iter().try_for_each(check)?;
                // As `spire degrade` does it, so that the same seed gives the same picture.
                let (picture, _) = degrade::apply(&steps, clean, &mut random).map_err(Problem::bad)?;
                let prompt = trained.draw_prompt(&steps, &mut rng(self.seed, "prompt", 0));
                (picture, Some(steps), prompt)
            }
            (pipeline, _) => {
                let parameterized_share = if pipeline == Pipeline::Drawn { 1.0 } else { 0.0 };
                let parameterized = trained.clone();
                let config = DegradationConfig { parameterized_share, parameterized, ..Default::default() };
                let made = config.degrade(clean, &mut random).map_err(Problem::bad)?;
                (made.picture, (pipeline == Pipeline::Drawn).then_some(made.steps), made.prompt)
            }
        };
        let written = |steps: Vec<Step>| {
            let fragments: Vec<_> = steps.into_iter().map(prompt::Fragment::Numbered).collect();
            if fragments.is_empty() { String::new() } else { prompt::write(&fragments) }
        };
        let png = png_text::encode(&picture, None, &[]).map_err(Problem::bad)?;
        Ok(Made { png, steps: steps.map(written), prompt })
    }
}

/// Stronger steps take long on a large picture, and show nothing new.
fn check(step: &Step) -> Result<(), Problem> {
    let most = match step {
        Step::Blur { .. } => 20.0,
        Step::Downsample { .. } => 64.0,
        Step::Noise { .. } => 2.0,
        Step::Jpeg { .. } => 100.0,
    };
    if step.number() > most {
        let message = format!("\"{}\": at most {most}", prompt::Fragment::Numbered(*step));
        return Err(Problem::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(())
}
