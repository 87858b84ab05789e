//! Input files of the applications: a tree of 2,000 text files, and a C program of a thousand lines. The same on every machine.

use anyhow::Result;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A change to what is made here raises it, so that old files are not used.
const EDITION: u32 = 1;

/// A small generator (xorshift64*): the files need variety, not chance.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// The directory with the files, made below `target` where it is missing.
pub fn prepare(target: &Path) -> Result<PathBuf> {
    let dir = target.join(format!("bench-input-{EDITION}"));
    if !dir.exists() {
        // Under another name until it is complete.
        let part = tempfile::tempdir_in(target)?;
        fill(part.path())?;
        std::fs::rename(part.keep(), &dir)?;
    }
    Ok(dir)
}

fn fill(dir: &Path) -> Result<()> {
    let mut numbers = Numbers(1);
    for folder in 0..40 {
        let folder = dir.join(format!("tree/{folder:02}"));
        std::fs::create_dir_all(&folder)?;
        for file in 0..50 {
            std::fs::write(folder.join(format!("text-{file:02}")), text(&mut numbers))?;
        }
    }
    std::fs::write(dir.join("long.c"), program())?;
    Ok(())
}

/// 1 to 15 KiB of words.
fn text(numbers: &mut Numbers) -> String {
    let mut text = String::new();
    let length = 1024 + numbers.next() as usize % (14 << 10);
    while text.len() < length {
        let number = numbers.next();
        let _ = write!(text, "{:x}{}", number >> 40, if number % 8 == 0 { '\n' } else { ' ' });
    }
    text
}

/// Functions of loops, switches and calls, for the optimiser to work on.
fn program() -> String {
    let mut text = String::from("#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n\n");
    const FUNCTIONS: usize = 62;
    for n in 0..FUNCTIONS {
        let (a, b, c) = (n * 7 % 31 + 1, n * 13 % 61 + 3, n % 5 + 1);
        let _ = write!(
            text,
            "static uint32_t f{n}(uint32_t *v, unsigned len, const char *s)
{{
    uint32_t h = {a}u;
    for (unsigned i = 0; i < len; i++) {{
        h = (h << {c}) ^ (h >> {b}) ^ v[i];
        switch (h % 4) {{
        case 0: v[i] += h * {b}u; break;
        case 1: v[i] ^= (uint32_t)strlen(s); break;
        case 2: v[len - 1 - i] -= {a}u; break;
        default: h += v[(i * {a}) % len];
        }}
    }}
    return h;
}}

"
        );
    }
    text += "int main(int argc, char **argv)\n{\n    uint32_t v[97] = {1}, sum = (uint32_t)argc;\n";
    for n in 0..FUNCTIONS {
        let _ = writeln!(text, "    sum += f{n}(v, {}, argv[0]);", n + 35);
    }
    text + "    printf(\"%u\\n\", sum);\n    return 0;\n}\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_files_and_lines_as_the_rows_say_and_always_the_same() {
        let target = tempfile::tempdir().unwrap();
        let dir = prepare(target.path()).unwrap();
        let folders = std::fs::read_dir(dir.join("tree")).unwrap();
        let files: usize = folders.map(|d| std::fs::read_dir(d.unwrap().path()).unwrap().count()).sum();
        assert_eq!(files, 2000);
        let lines = program().lines().count();
        assert!((1000..1250).contains(&lines), "{lines}");
        let before = std::fs::read(dir.join("tree/00/text-00")).unwrap();
        assert!(before.len() >= 1024);
        assert_eq!(text(&mut Numbers(1)).as_bytes(), before);
        assert_eq!(prepare(target.path()).unwrap(), dir);
    }
}
