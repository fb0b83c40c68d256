//! The first random number of the process.

use std::sync::Once;
use std::thread;

/// Draws a random number on a new thread, once in the process.
///
/// Before the first one, aws-lc collects entropy for about 30 ms. TLS needs it for its first handshake,
/// and would wait. A verifier calls this before it reads the CA certificates and connects, so that
/// these take part of that time.
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();

    ONCE.call_once(|| {
        let thread = thread::Builder::new().name("tower-cognito-random".to_owned());
        // Without the thread or the number, only the handshake takes longer.
        drop(thread.spawn(|| aws_lc_rs::rand::fill(&mut [0])));
    });
}
