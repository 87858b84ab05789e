//! The kinds of attacks.

mod areas;
mod bases;
mod calls;
mod exhaust;
mod frames;
mod heap;
mod mappings;
pub mod patched;
mod races;
mod sites;
mod views;

pub use calls::warm_up;

use crate::warden::Warden;

/// Does it all; an error is what should not have happened.
type Attack = fn(&mut Warden) -> Result<(), String>;

/// Name, what it does, and how.
pub const ALL: &[(&str, &str, Attack)] = &[
    ("sites", "jumps to every system-call instruction, with every number", sites::sites),
    ("offsets", "jumps to every byte of code that nobody says is there", sites::offsets),
    ("reports", "makes the stub's private calls with forged arguments", sites::reports),
    ("rights", "takes rights from memory by the stub's own call", sites::rights),
    ("areas", "writes over stub memory while calls are made", areas::run),
    ("frames", "returns from signals that never were", frames::run),
    ("mappings", "maps, unmaps and protects over and near the stub", mappings::run),
    ("bases", "changes FS and GS base, and enters the gate with them", bases::run),
    ("races", "changes arguments in memory during calls", races::run),
    ("views", "lies about files whose content is in its memory", views::run),
    ("heap", "lies about memory that lies ready for it", heap::run),
    ("patched", "changes code that is patched, and runs it meanwhile", patched::run),
    ("exhaust", "takes all there is of everything", exhaust::run),
];
