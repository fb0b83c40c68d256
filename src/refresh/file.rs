//! Reads keys from a file. It is here because a read can block, and only the refresh knows where it
//! may.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::task::{AbortHandle, JoinHandle};

use crate::error::RefreshError;
use crate::fetch::{FetchJwks, JwksDocument};
use crate::jwks::MAX_DOCUMENT_LEN;

type ReadFile = fn(&Path) -> io::Result<Vec<u8>>;

/// A JWK Set in a file, for a machine that cannot reach the issuer.
pub(crate) struct FileFetch {
    path: PathBuf,
    read: ReadFile,
    /// The last read. On a file system that hangs it never ends, and no limit can stop it.
    last: Mutex<Option<AbortHandle>>,
}

impl FileFetch {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self::reading_with(path, read_document)
    }

    fn reading_with(path: PathBuf, read: ReadFile) -> Self {
        Self { path, read, last: Mutex::default() }
    }

    /// Starts a read. Returns `None` if the last one still blocks a thread: otherwise each attempt
    /// would block one more, until the process has none left.
    fn start(&self) -> Option<JoinHandle<io::Result<Vec<u8>>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|last| !last.is_finished()) {
            return None;
        }
        let (path, read) = (self.path.clone(), self.read);
        let started = tokio::task::spawn_blocking(move || read(&path));
        *last = Some(started.abort_handle());
        Some(started)
    }
}

impl FetchJwks for FileFetch {
    async fn fetch_jwks(&self, _url: &str) -> Result<JwksDocument, RefreshError> {
        let Some(started) = self.start() else {
            return Err(RefreshError::transport("the last read of the file has not ended"));
        };
        match started.await {
            Ok(read) => read.map(JwksDocument::new).map_err(RefreshError::transport),
            Err(_) => Err(RefreshError::panicked()),
        }
    }
}

fn read_document(path: &Path) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer, and opening some devices has an effect.
    check_is_file(&fs::metadata(path)?)?;
    let file = open(path)?;
    // Another file may have replaced that one before it was opened.
    check_is_file(&file.metadata()?)?;
    let limit = u64::try_from(MAX_DOCUMENT_LEN).unwrap_or(u64::MAX).saturating_add(1);
    let mut document = Vec::new();
    file.take(limit).read_to_end(&mut document)?;
    Ok(document)
}

fn check_is_file(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

/// Opens a file for reading, without waiting if it is a pipe or another process has a lease on it.
// `O_NONBLOCK` by its number, which is the same on these systems: std does not name it.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "aarch64", target_arch = "arm", target_arch = "x86", target_arch = "x86_64")
))]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    const O_NONBLOCK: i32 = 0o4000;
    OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)
}

#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "aarch64", target_arch = "arm", target_arch = "x86", target_arch = "x86_64")
)))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{LazyLock, MutexGuard};
    use std::time::{Duration, Instant};

    use tokio::runtime::Builder;
    use tokio::time::timeout;

    use super::*;
    use crate::error::with_causes;

    type Channel = (Mutex<Sender<()>>, Mutex<Receiver<()>>);

    fn sender(channel: &Channel) -> MutexGuard<'_, Sender<()>> {
        channel.0.lock().unwrap()
    }

    #[test]
    fn read_that_hangs_is_the_only_one_in_flight() {
        static BEGAN: LazyLock<Channel> = LazyLock::new(|| {
            let (sender, receiver) = channel();
            (Mutex::new(sender), Mutex::new(receiver))
        });
        static RELEASE: LazyLock<Channel> = LazyLock::new(|| {
            let (sender, receiver) = channel();
            (Mutex::new(sender), Mutex::new(receiver))
        });
        let file = FileFetch::reading_with(PathBuf::new(), |_| {
            sender(&BEGAN).send(()).unwrap();
            RELEASE.1.lock().unwrap().recv().unwrap();
            Ok(b"{}".to_vec())
        });
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let first = timeout(Duration::from_millis(1), file.fetch_jwks("")).await;
            assert!(first.is_err(), "the first attempt timed out, but its read continues");
            for _ in 0..600 {
                let error = file.fetch_jwks("").await.unwrap_err();
                assert!(with_causes(&error).ends_with("the last read of the file has not ended"));
            }
            sender(&RELEASE).send(()).unwrap();
            let began = Instant::now();
            // The read that hung ends soon after, and then the next one can begin.
            sender(&RELEASE).send(()).unwrap();
            while file.fetch_jwks("").await.is_err() {
                assert!(began.elapsed() < Duration::from_secs(20));
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(BEGAN.1.lock().unwrap().try_iter().count(), 2);
    }

    #[test]
    fn pipe_is_opened_without_waiting_for_a_writer() {
        let pipe = std::env::temp_dir().join(format!("tower-cognito-pipe-{}", std::process::id()));
        let made = Command::new("mkfifo").arg(&pipe).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("SKIPPED: no mkfifo");
            return;
        }
        let error = open(&pipe).and_then(|file| check_is_file(&file.metadata()?)).unwrap_err();
        fs::remove_file(&pipe).unwrap();
        assert_eq!(error.to_string(), "it is not a regular file");
    }
}
