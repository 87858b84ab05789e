//! A guest program that attacks the kernel which runs it, and everything that it can reach, while a victim beside it checks itself.
//!
//! ```sh
//! vkernel run -- vk-attack run all --seed 7 --ms 2000     # or the names that `vk-attack list` prints
//! ```
//!
//! The first process is the [`warden`]: it starts the [`victim`], starts attackers as users without rights, one kind of attack after the other, and looks
//! after each whether the victim is well, whether everything that was taken has been given back, and whether who had to be killed has been.
//! It says so on standard output, for `tests/e2e/tests/attack`, which watches the host meanwhile. `vk-attack canary` is what that test starts on the host.
//!
//! Everything random comes from the seed. A try is made again alone by `--only N`, where N is in the output of the failure.
//! It knows nothing of vkernel's inside: what it attacks, it finds in its address space ([`stub`]).

// Every line of this program breaks what Rust takes for granted, on purpose; a reason for each block would be the same one.
#![allow(clippy::undocumented_unsafe_blocks)]

mod attacks;
mod barrage;
mod jump;
mod rng;
mod stub;
mod sys;
mod values;
mod victim;
mod warden;

use std::process::ExitCode;

/// What the command line asks for.
pub struct Options {
    /// Everything random follows from it.
    pub seed: u64,
    /// How long each kind of attack goes on, at most; those that have an end stop there.
    pub ms: u64,
    /// Makes this try only, of attacks that count theirs.
    pub only: Option<u64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["run", ref rest @ ..] => run(rest),
        ["list"] => {
            attacks::ALL.iter().for_each(|(name, what, _)| println!("{name:10} {what}"));
            Ok(())
        }
        ["canary"] => victim::canary(),
        ["cold", which] => attacks::patched::cold(which),
        _ => Err("usage: vk-attack run all|NAME... [--seed N] [--ms N] [--only N] | list | canary".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("failed: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), String> {
    let mut options = Options { seed: 1, ms: 2000, only: None };
    let mut names = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut number = || {
            let text = words.next().ok_or_else(|| format!("{word} wants a number"))?;
            text.parse::<u64>().map_err(|_| format!("{text}: not a number"))
        };
        match *word {
            "--seed" => options.seed = number()?,
            "--ms" => options.ms = number()?,
            "--only" => options.only = Some(number()?),
            name => names.push(name),
        }
    }
    let wanted = |name: &str| names.contains(&"all") || names.contains(&name);
    let unknown = names.iter().find(|n| **n != "all" && !attacks::ALL.iter().any(|(name, ..)| name == *n));
    if let Some(name) = unknown {
        return Err(format!("there is no attack {name}"));
    }
    let mut warden = warden::Warden::new(options)?;
    for (name, _, attack) in attacks::ALL.iter().filter(|(name, ..)| wanted(name)) {
        warden.begin(name);
        attack(&mut warden).map_err(|why| format!("{name}, seed {}: {why}", warden.options.seed))?;
        warden.look_around().map_err(|why| format!("after {name}, seed {}: {why}", warden.options.seed))?;
    }
    warden.end()
}
