//! Keys from a file. Here, since reading one may block, and the refresh alone knows where it may.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::RefreshError;
use crate::fetch::{FetchJwks, JwksDocument};
use crate::jwks::MAX_DOCUMENT_LEN;

/// A JWK Set in a file, for a machine without a way to the issuer.
pub(crate) struct FileFetch {
    path: PathBuf,
}

impl FileFetch {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl FetchJwks for FileFetch {
    async fn fetch_jwks(&self, _url: &str) -> Result<JwksDocument, RefreshError> {
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || read_document(&path)).await {
            Ok(read) => read.map(JwksDocument::new).map_err(RefreshError::transport),
            Err(_) => Err(RefreshError::panicked()),
        }
    }
}

fn read_document(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let limit = u64::try_from(MAX_DOCUMENT_LEN).unwrap_or(u64::MAX).saturating_add(1);
    let mut document = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut document)?;
    Ok(document)
}
