//! Work on large texts, off the thread that serves everybody.

use tokio::sync::Semaphore;

/// Below this a hop to another thread costs more than the work: decoding or encoding 64 KiB takes about as long.
const AT_ONCE_BYTES_MAX: usize = 64 * 1024;
/// The rest waits in order: more would take the cores from the sandboxes, not from each other.
const THREADS_MAX: usize = 2;
static THREADS: Semaphore = Semaphore::const_new(THREADS_MAX);

/// The result of `work`, which goes over about `bytes` bytes; `None` where it panicked or the runtime stops.
pub async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if bytes <= AT_ONCE_BYTES_MAX {
        return Some(work());
    }
    // Never closed.
    let thread = THREADS.acquire().await.ok()?;
    // It goes on when the caller is gone, and takes its place for as long.
    let work = move || {
        let _thread = thread;
        work()
    };
    tokio::task::spawn_blocking(work).await.ok()
}

/// As [`aside`], for work that waits for files.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
