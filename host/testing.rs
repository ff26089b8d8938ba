//! What tests of attention and the command line share: problems, their layout in pages, a reference, a tolerance.
//!
//! Flow: [`strategies`] (feature `testing`) or a [`golden`] file -> [`case`] (numbers, [`stored`] as the cache has them) ->
//! [`paged`] (bytes in pages, all else poisoned; or pages that [`append`] fills) -> [`run`](mod@run) (any device, any splits) -> [`tolerance`] (against an exact answer, with the
//! [`mod@reference`] as its unit). The exact answer is not here: an oracle that shares code with what it judges is none.
pub mod append;
pub mod case;
pub mod format;
pub mod golden;
pub mod merge;
pub mod paged;
pub mod quantise;
pub mod reference;
pub mod run;
pub mod stored;
#[cfg(feature = "testing")]
pub mod strategies;
mod told;
pub mod tolerance;
pub mod trial;
pub mod variant;
