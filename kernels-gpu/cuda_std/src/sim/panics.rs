//! Panics in a kernel's body: kept quiet, and their message and source line kept for the [`Error`](super::Error).
use std::any::Any;
use std::cell::Cell;
use std::panic::{self, Location};
use std::sync::Once;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static LOCATION: Cell<Option<&'static Location<'static>>> = const { Cell::new(None) };
}

/// What unwinds a thread after an error: caught at the bottom of its stack, and never printed.
struct Abandoned;

/// Unwinds the calling simulated thread.
pub(super) fn abandon() -> ! {
    panic::resume_unwind(Box::new(Abandoned))
}

/// Runs a body; a panic in it is its message and source line. That it was abandoned is no panic.
pub(super) fn catch(body: impl FnOnce()) -> Result<(), (String, Option<&'static Location<'static>>)> {
    match panic::catch_unwind(panic::AssertUnwindSafe(body)) {
        Err(payload) if !payload.is::<Abandoned>() => Err((message(&*payload), LOCATION.take())),
        _ => Ok(()),
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a message".to_owned(),
    }
}

/// Calls `run`, in which panics print nothing and leave their location for [`catch`].
pub(super) fn quietly<R>(run: impl FnOnce() -> R) -> R {
    INSIDE.set(true);
    let returned = run();
    INSIDE.set(false);
    returned
}

/// Makes [`quietly`] work, once a process: a hook around whatever hook there is.
pub(super) fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !INSIDE.get() {
                return previous(info);
            }
            // SAFETY: a panic's location is what `Location::caller` returned to the code that panics, which is
            // `&'static Location<'static>`; only the hook's signature shortens it.
            let location = info
                .location()
                .map(|location| unsafe { std::mem::transmute::<&Location<'_>, &'static Location<'static>>(location) });
            LOCATION.set(location);
        }));
    });
}
