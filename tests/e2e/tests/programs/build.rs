//! Compilers and builds.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use vk_e2e_tests::{need, same_in, temp};

/// Twenty source files, a header, a makefile.
fn program(dir: &Path) {
    let mut header =
        String::from("#include <stdint.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    let mut main = String::from("#include \"all.h\"\nint main(void) { uint64_t s = 1;\n");
    for n in 0..19 {
        let _ = writeln!(header, "uint64_t part{n}(uint64_t);");
        let _ = writeln!(main, "s = part{n}(s); printf(\"{n}: %llx\\n\", (unsigned long long)s);");
        let source = format!(
            "#include \"all.h\"\nstruct node{n} {{ struct node{n} *next; uint64_t key; char name[{size}]; }};\n\
             uint64_t part{n}(uint64_t seed) {{\n struct node{n} *list = NULL; uint64_t sum = seed;\n\
             for (int i = 0; i < 1000; i++) {{ struct node{n} *x = malloc(sizeof *x); x->next = list; x->key = sum * {odd}u + i;\n\
             snprintf(x->name, sizeof x->name, \"%llu\", (unsigned long long)x->key); list = x; sum ^= x->key >> 7; }}\n\
             while (list) {{ struct node{n} *x = list; list = x->next; sum += strlen(x->name); free(x); }}\n return sum; }}\n",
            size = 24 + n,
            odd = 2 * n + 7
        );
        fs::write(dir.join(format!("part{n}.c")), source).expect("our own directory");
    }
    main.push_str("return 0; }\n");
    fs::write(dir.join("all.h"), header).expect("our own directory");
    fs::write(dir.join("main.c"), main).expect("our own directory");
    let makefile = "OBJ = $(patsubst %.c,%.o,$(sort $(wildcard *.c)))\nprog: $(OBJ)\n\tgcc -o $@ $(OBJ)\n%.o: %.c all.h\n\tgcc -O2 -Wall -Werror -c $<\n\
                    check: prog\n\t./prog > out && test $$(wc -l < out) = 19\n";
    fs::write(dir.join("Makefile"), makefile).expect("our own directory");
}

#[test]
fn one_compiler_call_of_twenty_files() {
    let dir = temp();
    program(dir.path());
    need("gcc");
    same_in(dir.path(), &["sh", "-c", "gcc -O2 -flto -o prog *.c && sha256sum prog && ./prog"]).exits(0);
}

#[test]
fn a_parallel_make() {
    let dir = temp();
    program(dir.path());
    need("make");
    // The order of four jobs is not given, so what make says is compared sorted.
    let script = "make -j4 > log 2>&1; echo $?; sort log; make -j4 check; ./prog; sha256sum *.o prog; make -q; echo $?; touch all.h; make -q; echo $?";
    same_in(dir.path(), &["bash", "-c", script]).exits(0);
}

#[test]
fn compiler_errors_are_the_same() {
    let dir = temp();
    fs::write(dir.path().join("bad.c"), "int main(void) { return undeclared; }\n")
        .expect("our own directory");
    same_in(dir.path(), &["sh", "-c", "gcc -c bad.c 2>&1"]).exits(1);
}

#[test]
fn a_crate_without_network() {
    let dir = temp();
    fs::create_dir(dir.path().join("src")).expect("our own directory");
    let manifest = "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    fs::write(dir.path().join("Cargo.toml"), manifest).expect("our own directory");
    let lib = "pub fn sum(n: u64) -> u64 { (0..n).map(|x| x * x).sum() }\n#[test]\nfn it_sums() { assert_eq!(sum(4), 14); }\n";
    fs::write(dir.path().join("src/lib.rs"), lib).expect("our own directory");
    let main = "fn main() { let t: Vec<_> = (0..8).map(|n| std::thread::spawn(move || small::sum(n * 100))).collect();\n\
                for t in t { println!(\"{}\", t.join().unwrap()); } println!(\"{:?}\", std::env::args().nth(1)); }\n";
    fs::write(dir.path().join("src/main.rs"), main).expect("our own directory");
    // Times in cargo's messages differ, so only what the program says is compared.
    let script = format!(
        "unset RUSTFLAGS CARGO_TARGET_DIR; '{cargo}' build --offline --quiet && ./target/debug/small x && '{cargo}' test --offline --quiet 2>&1 | grep -c 'test result: ok'",
        cargo = env!("CARGO")
    );
    same_in(dir.path(), &["sh", "-c", &script]).exits(0);
}
