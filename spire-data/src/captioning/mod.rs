//! Captions of pictures by a vision-language model on a server ([`Endpoint`]): one picture, or the pictures of a folder.
//! The paper takes LLaVA's captions for photographs that have none (section 4.4, Table 4).

mod endpoint;
mod folder;

pub use endpoint::{CaptionError, Endpoint, EndpointSettings, Form};
pub use folder::{CaptionFolder, CaptionSummary};
