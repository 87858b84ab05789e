//! Interpreters for text: perl, awk, sed, jq.

use vk_e2e_tests::same;

#[test]
fn perl() {
    same(&["perl", "-e", r#"
use strict; use POSIX qw(:sys_wait_h strftime); use IO::Handle; use Socket; use File::Temp;
my %c; $c{$_ % 7}++ for 1..1000; print join(",", map { "$_=$c{$_}" } sort keys %c), "\n";
pipe(my $r, my $w); my $pid = fork(); if (!$pid) { close $r; print $w "child\n"; close $w; POSIX::_exit(5); }
close $w; print <$r>; waitpid($pid, 0); print $? >> 8, "\n";
socketpair(my $p, my $q, AF_UNIX, SOCK_STREAM, PF_UNSPEC); syswrite $p, "hello"; sysread $q, my $x, 5; print "$x\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select(undef, undef, undef, 30); }; print $@;
my $t = File::Temp->new; print $t "x" x 100; $t->flush; print -s $t->filename, "\n";
print strftime("%Y-%m-%d", gmtime(86400 * 365)), "\n"; print `echo sub; exit 3`, $? >> 8, "\n";
my @s = sort { $a <=> $b } map { ($_ * 7919) % 10007 } 1..5000; print "@s[0..9]\n";
"#]).exits(0);
}

#[test]
fn awk() {
    same(&["awk", r#"BEGIN { for (i = 0; i < 20000; i++) { k = (i * 7919) % 101; n[k] += i }
for (k = 0; k < 101; k++) s = s n[k] " "; print s; printf "%.6f %s\n", atan2(0, -1), toupper("abc");
"echo from a command" | getline line; print line; print "b\na" | "sort"; close("sort"); system("exit 4"); exit 3 }"#])
    .exits(3);
}

#[test]
fn sed() {
    same(&[
        "sh",
        "-c",
        r"seq 2000 | sed -n '/7$/{s/\(.*\)7/<\1>/;H};${x;s/\n/,/g;p}'; d=$(mktemp -d); cd $d
printf 'a\nb\n' > f; chmod 640 f; sed -i.bak 's/a/A/' f; cat f f.bak; stat -c '%a %n' f; ls",
    ])
    .exits(0);
}

#[test]
fn jq() {
    same(&["jq", "-n", r#"[range(1000) | {id: ., odd: (. % 2 == 1), s: "n\(.)"}] | group_by(.odd) | map({n: length, sum: (map(.id) | add), last: .[-1].s})"#])
        .exits(0);
}
