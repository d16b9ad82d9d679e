//! Runs production code that waits, on one thread and without real time.

use std::cell::RefCell;

thread_local! {
    // Its time is not the clock's: waiting costs none.
    static RUNTIME: RefCell<tokio::runtime::Runtime> = RefCell::new(
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime"),
    );
}

/// The result of `future`.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}
