//! Where the refresh tasks run: on one thread that belongs to this crate.
//!
//! The tasks of all verifiers of a process share one helper thread with a tokio runtime of one
//! thread. It starts with the first task and ends with the last one. The runtime of the caller is
//! not used, for three reasons:
//!
//! * Tokio reports a runtime without timers only by a panic. No function tells whether a
//!   runtime has timers. Catching the panic works only if panics unwind, so with `panic = "abort"`
//!   the check would end the process.
//! * A runtime can be alive and still not be driven, as a `current_thread` runtime between two
//!   calls of `block_on`. Its timers do not fire then, and a wait on them has no end.
//! * Any executor can poll `verify`, also one without tokio.
//!
//! The exception is paused time, which only tests have (tokio's feature `test-util`). There the
//! task and the time limits stay on the caller's runtime, so that they follow its virtual clock.
//! A paused runtime must have timers: tokio panics if it was built without `enable_time`.

use std::convert::Infallible;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;
use std::{hint, io, process, thread};

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Linux shows the first 15 bytes.
const THREAD_NAME: &str = "tower-cognito";

/// The thread for the refresh tasks could not be started.
#[derive(Debug)]
pub(crate) struct NoBackgroundThread(pub(crate) io::Error);

/// The thread and its runtime. They end when the last owner drops this.
#[derive(Debug)]
pub(crate) struct Background {
    runtime: Handle,
    /// A forked child has a copy of this, but not the thread.
    process: u32,
    /// The thread waits until this is dropped. It is closed if the thread has ended before.
    stop: oneshot::Sender<Infallible>,
}

type Current = Mutex<Weak<Background>>;

impl Background {
    /// Returns the background thread of this process. Starts it if there is none.
    fn current() -> Result<Arc<Self>, NoBackgroundThread> {
        static CURRENT: Current = Mutex::new(Weak::new());
        Self::current_in(&CURRENT, process::id())
    }

    fn current_in(current: &Current, process: u32) -> Result<Arc<Self>, NoBackgroundThread> {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = |known: &Arc<Self>| known.process == process && !known.stop.is_closed();
        if let Some(known) = current.upgrade().filter(usable) {
            return Ok(known);
        }
        let started = Arc::new(Self::start(process).map_err(NoBackgroundThread)?);
        *current = Arc::downgrade(&started);
        Ok(started)
    }

    fn start(process: u32) -> io::Result<Self> {
        // Start the thread before the runtime is built: if the thread could not be started, the
        // runtime would be dropped here, and tokio panics if that happens inside another runtime.
        let (hand_over, handed_over) = mpsc::channel::<(Runtime, oneshot::Receiver<Infallible>)>();
        thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
            if let Ok((runtime, stopped)) = handed_over.recv() {
                let _ = runtime.block_on(stopped);
                // Does not wait for a blocking read that hangs.
                runtime.shutdown_background();
            }
        })?;
        let runtime =
            Builder::new_current_thread().enable_all().thread_name(THREAD_NAME).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        if let Err(mpsc::SendError((runtime, _))) = hand_over.send((runtime, stopped)) {
            runtime.shutdown_background();
            return Err(io::Error::other("the thread ended at once"));
        }
        Ok(Self { runtime: handle, process, stop })
    }
}

/// The runtime of a refresh task.
#[derive(Clone, Debug)]
pub(crate) enum Home {
    Background(Arc<Background>),
    /// A runtime of the caller whose time is paused.
    Paused(Handle),
}

impl Home {
    /// Returns the runtime for a task that is started now.
    pub(crate) fn of_new_task() -> Result<Self, NoBackgroundThread> {
        match paused_runtime() {
            Some(runtime) => Ok(Self::Paused(runtime)),
            None => Background::current().map(Self::Background),
        }
    }

    fn runtime(&self) -> &Handle {
        match self {
            Self::Background(background) => &background.runtime,
            Self::Paused(runtime) => runtime,
        }
    }

    /// Until the guard is dropped, `Instant::now` reads the clock of this runtime.
    pub(crate) fn enter(&self) -> EnterGuard<'_> {
        self.runtime().enter()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime().spawn(task)
    }

    /// Returns `true` in a forked child, which has no copy of the thread.
    pub(crate) fn is_of_another_process(&self) -> bool {
        match self {
            Self::Background(background) => background.process != process::id(),
            Self::Paused(_) => false,
        }
    }

    /// Waits for a future that depends on the task of this runtime. Returns `None` if the limit is
    /// reached first.
    ///
    /// The timer is one of the background thread, which runs whatever happens to the caller's runtime.
    /// The time is virtual only if the task and the caller are both on a paused runtime.
    pub(crate) async fn timeout<F: Future>(&self, limit: Duration, future: F) -> Option<F::Output> {
        // Keep the thread until the wait is over: a timer must not be polled after its runtime has
        // ended.
        let background = match self {
            Self::Background(background) => Some(Arc::clone(background)),
            Self::Paused(_) if paused_runtime().is_some() => None,
            Self::Paused(_) => Some(Background::current().ok()?),
        };
        let limited = {
            let _entered = background.as_ref().map(|background| background.runtime.enter());
            timeout(limit, future)
        };
        limited.await.ok()
    }
}

/// Returns the runtime of the caller, if its time is paused. Spins for a microsecond, so call it only
/// at the start and at the beginning of a wait, and never for a known key.
fn paused_runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    // Read tokio's clock first and last: if it runs, it has moved at least as far as the system's.
    let before = Instant::now();
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_micros(1) {
        hint::spin_loop();
    }
    (Instant::now() == before).then_some(runtime)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Fails the test instead of waiting without end.
    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn background_is_shared_and_ends_with_its_last_owner() {
        let current = Current::default();
        let [first, second] =
            [(); 2].map(|()| Background::current_in(&current, process::id()).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        // The task is dropped by the thread when it ends.
        let (held, is_dropped) = mpsc::channel::<Infallible>();
        let (sender, name) = mpsc::channel();
        let home = Home::Background(Arc::clone(&first));
        home.spawn(async move {
            sender.send(thread::current().name().map(str::to_owned)).unwrap();
            std::future::pending::<()>().await;
            drop(held);
        });
        assert_eq!(name.recv_timeout(LIMIT).unwrap().as_deref(), Some(THREAD_NAME));
        drop((first, home));
        assert_eq!(is_dropped.try_recv(), Err(mpsc::TryRecvError::Empty), "one owner is left");
        drop(second);
        assert_eq!(is_dropped.recv_timeout(LIMIT), Err(mpsc::RecvTimeoutError::Disconnected));
        assert!(current.lock().unwrap().upgrade().is_none());
        Background::current_in(&current, process::id()).unwrap();
    }

    #[test]
    fn background_that_hangs_in_a_blocking_read_still_ends() {
        let current = Current::default();
        let background = Background::current_in(&current, process::id()).unwrap();
        let (release, is_released) = mpsc::channel::<Infallible>();
        let (held, is_dropped) = mpsc::channel::<Infallible>();
        let (began, has_begun) = mpsc::channel();
        Home::Background(Arc::clone(&background)).spawn(async move {
            let read = tokio::task::spawn_blocking(move || {
                began.send(()).unwrap();
                let _ = is_released.recv();
            });
            let _ = read.await;
            drop(held);
        });
        has_begun.recv_timeout(LIMIT).unwrap();
        drop(background);
        assert_eq!(is_dropped.recv_timeout(LIMIT), Err(mpsc::RecvTimeoutError::Disconnected));
        drop(release);
    }

    #[test]
    fn background_of_another_process_is_not_used() {
        let current = Current::default();
        let parent = Background::current_in(&current, process::id().wrapping_add(1)).unwrap();
        assert!(Home::Background(Arc::clone(&parent)).is_of_another_process());
        let child = Background::current_in(&current, process::id()).unwrap();
        assert!(!Arc::ptr_eq(&parent, &child));
        assert!(!Home::Background(child).is_of_another_process());
    }

    #[test]
    fn paused_time_is_distinguished_from_running_time() {
        assert!(paused_runtime().is_none());
        let runs = Builder::new_current_thread().enable_all().build().unwrap();
        runs.block_on(async { assert!(paused_runtime().is_none()) });
        let without_timers = Builder::new_current_thread().build().unwrap();
        without_timers.block_on(async { assert!(paused_runtime().is_none()) });
        runs.block_on(async {
            tokio::time::pause();
            assert!(paused_runtime().is_some());
            tokio::time::advance(Duration::from_secs(3_600)).await;
            assert!(paused_runtime().is_some());
            tokio::time::resume();
            assert!(paused_runtime().is_none());
        });
    }
}
