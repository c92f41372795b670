//! Restores pictures with a trained model: files and folders ([`files`]), walks through prompts ([`walk`]), and the
//! methods of an evaluation ([`evaluation`], [`readiness`]). Models of other authors restore files as well ([`network`], [`generative`]).
//! Several devices and processes share the work ([`sharing`]).

mod downloads;
pub mod evaluation;
mod evaluation_sheet;
pub mod files;
pub mod generative;
mod jobs;
mod made_once;
mod methods;
pub mod network;
pub mod provenance;
pub mod readiness;
pub mod restorer;
pub mod sharing;
pub mod trained_model;
pub mod walk;
