//! The reference that the fuzz targets compare tower-cognito with: slow and simple parsers of the
//! same formats, which share no code with the crate, a model of the refresh engine, and the keys and
//! rules for both.

#![forbid(unsafe_code)]

pub mod base64url;
pub mod challenge;
pub mod choices;
pub mod json;
pub mod jwk_set;
pub mod numeric_date;
pub mod refresh_model;
pub mod setup;
pub mod token;
