//! Restores pictures with a trained model: files and folders ([`files`]), walks through prompts ([`walk`]), and the
//! methods of an evaluation ([`evaluation`]). Networks of other authors restore files as well ([`network`]).

pub mod evaluation;
mod evaluation_sheet;
pub mod files;
mod jobs;
mod methods;
pub mod network;
pub mod provenance;
pub mod restorer;
pub mod trained_model;
pub mod walk;
