//! Real programs at real work, as one run each. What is made before and looked at after is not timed.

use crate::clock::{each, once};
use crate::workdir::WorkDir;
use crate::{Context, PATH};
use std::io::{Error, Read, Result, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// A program with nothing of the caller's environment.
fn program(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(name);
    command.env_clear().envs([("PATH", PATH), ("LC_ALL", "C"), ("GIT_CONFIG_NOSYSTEM", "1")]);
    command.env("HOME", dir).env("TMPDIR", dir).current_dir(dir).stdin(Stdio::null());
    command
}

fn good(status: ExitStatus, what: &str) -> Result<()> {
    if status.success() { Ok(()) } else { Err(Error::other(format!("{what} ended with {status}"))) }
}

fn wrong<T>(what: String) -> Result<T> {
    Err(Error::other(what))
}

pub fn bash_200_true(cx: &Context) -> Result<f64> {
    let dir = WorkDir::new(cx)?;
    let loops = "for ((i = 0; i < 200; i++)); do /bin/true || exit 1; done";
    once(|| good(program("bash", &dir).args(["--norc", "-c", loops]).status()?, "bash"))
}

/// The start of an interpreter that does nothing, as often as the time allows.
pub fn python_start(cx: &Context) -> Result<f64> {
    let dir = WorkDir::new(cx)?;
    each(cx.time, || good(program("python3", &dir).args(["-c", "pass"]).status()?, "python3"))
}

/// The archive goes through a pipe: tar does not read the files when it sees /dev/null.
pub fn tar_2000(cx: &Context) -> Result<f64> {
    let dir = WorkDir::new(cx)?;
    let mut tar = program("tar", &dir);
    tar.arg("-cf-").arg("-C").arg(&cx.input).arg("tree").stdout(Stdio::piped());
    let (mut bytes, mut buffer) = (0, vec![0; 64 << 10]);
    let ns = once(|| {
        let mut child = tar.spawn()?;
        if let Some(mut archive) = child.stdout.take() {
            loop {
                match archive.read(&mut buffer)? {
                    0 => break,
                    got => bytes += got,
                }
            }
        }
        good(child.wait()?, "tar")
    })?;
    // A header of 512 bytes and at least a block of content for each of the 2,000 files.
    if bytes < 2000 * 1024 { wrong(format!("an archive of {bytes} bytes")) } else { Ok(ns) }
}

/// `-size` makes find stat every file. Files and program are known to whatever runs this, as they are to the host.
pub fn find_2000(cx: &Context) -> Result<f64> {
    for _ in 0..2 {
        find_2000_first(cx)?;
    }
    find_2000_first(cx)
}

/// The same in a sandbox that has just started and sees them for the first time.
pub fn find_2000_first(cx: &Context) -> Result<f64> {
    let dir = WorkDir::new(cx)?;
    let mut find = program("find", &dir);
    find.arg(cx.input.join("tree")).args(["-type", "f", "-size", "-1000k"]);
    let mut lines = 0;
    let ns = once(|| {
        let output = find.output()?;
        lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        good(output.status, "find")
    })?;
    if lines == 2000 { Ok(ns) } else { wrong(format!("find saw {lines} files of 2000")) }
}

pub fn gcc_1000_lines(cx: &Context) -> Result<f64> {
    let dir = WorkDir::new(cx)?;
    let mut gcc = program("gcc", &dir);
    gcc.args(["-O2", "-c", "-o", "long.o"]).arg(cx.input.join("long.c"));
    once(|| good(gcc.status()?, "gcc"))
}

/// `git add` and `git commit` of the first half of the tree, copied to memory before.
pub fn git_commit_1000(cx: &Context) -> Result<f64> {
    let dir = WorkDir::new(cx)?;
    let mut files = 0;
    for n in 0..20 {
        let name = format!("{n:02}");
        std::fs::create_dir(dir.join(&name))?;
        for entry in std::fs::read_dir(cx.input.join("tree").join(&name))? {
            let entry = entry?;
            std::fs::copy(entry.path(), dir.join(&name).join(entry.file_name()))?;
            files += 1;
        }
    }
    let git = |args: &[&str]| {
        let mut command = program("git", &dir);
        command
            .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"])
            .args(args);
        command
    };
    good(git(&["init", "--quiet"]).stderr(Stdio::null()).status()?, "git init")?;
    let ns = once(|| {
        good(git(&["add", "--all"]).status()?, "git add")?;
        good(git(&["commit", "--quiet", "--message=one"]).status()?, "git commit")
    })?;
    let listed = git(&["ls-tree", "-r", "--name-only", "HEAD"]).output()?.stdout;
    let listed = listed.iter().filter(|byte| **byte == b'\n').count();
    if listed == files && files == 1000 {
        Ok(ns)
    } else {
        wrong(format!("{listed} of {files} files in the commit"))
    }
}

/// Feeds a script to sqlite3, which has started and opened its file; the last line that it prints must be `answer`.
fn sqlite(cx: &Context, script: &str, answer: &str) -> Result<f64> {
    const READY: &str = "ready\n";
    let dir = WorkDir::new(cx)?;
    let mut child =
        program("sqlite3", &dir).arg("t.db").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        return wrong("sqlite3 has no pipes".to_string());
    };
    input.write_all(b"create table start(n); select 'ready';\n")?;
    let mut ready = [0; READY.len()];
    output.read_exact(&mut ready)?;
    let mut printed = String::new();
    let ns = once(|| {
        // It prints one short line at the end, so neither side can fill a pipe that the other does not read.
        input.write_all(script.as_bytes())?;
        drop(input);
        output.read_to_string(&mut printed).map(|_| ())
    })?;
    good(child.wait()?, "sqlite3")?;
    if ready == READY.as_bytes() && printed.trim() == answer {
        Ok(ns)
    } else {
        wrong(format!("sqlite3 printed {printed:?}, not {answer}"))
    }
}

/// A commit a row, with the journal and the file synchronisation that sqlite has by default.
pub fn sqlite_2000_commits(cx: &Context) -> Result<f64> {
    let mut script = String::from("create table t(id integer primary key, name text, x real);\n");
    for n in 0..2000 {
        script += &format!("insert into t(name, x) values('row {n}', {n} * 0.5);\n");
    }
    script += "select count(*) from t;\n";
    sqlite(cx, &script, "2000")
}

/// 100,000 rows in one transaction, then a query that groups and sorts them.
pub fn sqlite_bulk(cx: &Context) -> Result<f64> {
    let script = "create table t(id integer primary key, name text, x real);
        begin;
        with recursive n(i) as (select 1 union all select i + 1 from n where i < 100000)
            insert into t(name, x) select 'name ' || (i * 7919 % 997), i * 0.25 from n;
        commit;
        select count(*) from (select name, avg(x) mean from t group by name order by mean);\n";
    sqlite(cx, script, "997")
}
