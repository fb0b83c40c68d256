//! What the fuzz targets compare tower-cognito with: slow and plain readers of the same formats,
//! which share no code with it; and the keys and rules that they judge by.

#![forbid(unsafe_code)]

pub mod base64url;
pub mod challenge;
pub mod choices;
pub mod json;
pub mod jwk_set;
pub mod numeric_date;
pub mod setup;
pub mod token;
