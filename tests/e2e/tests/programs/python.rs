//! Python and the parts of its library that ask most of a kernel.

use vk_e2e_tests::{same_in, temp};

#[track_caller]
fn python(script: &str) {
    let dir = temp();
    std::fs::write(dir.path().join("script.py"), script).expect("our own directory");
    same_in(dir.path(), &["/usr/bin/python3", "script.py"]).exits(0);
}

#[test]
fn threads() {
    python(
        r#"
import threading, queue, concurrent.futures as f
q, out = queue.Queue(4), []
def work():
    while (n := q.get()) is not None: out.append(n * n)
ts = [threading.Thread(target=work) for _ in range(20)]
[t.start() for t in ts]; [q.put(n) for n in range(2000)]; [q.put(None) for _ in ts]; [t.join() for t in ts]
print(sum(out), len(out))
c, hits = threading.Condition(), []
def turn(i):
    with c:
        c.wait_for(lambda: len(hits) == i, timeout=60); hits.append(i); c.notify_all()
ts = [threading.Thread(target=turn, args=(i,)) for i in reversed(range(50))]
[t.start() for t in ts]; [t.join() for t in ts]; print(hits)
with f.ThreadPoolExecutor(8) as p: print(sum(p.map(lambda n: n % 7, range(1000))))
e = threading.Event(); threading.Timer(0.05, e.set).start(); print(e.wait(60)); print(e.wait(0))
print(threading.Lock().acquire(timeout=0.01))
"#,
    );
}

#[test]
fn subprocesses() {
    python(
        r#"
import subprocess as s, os, sys
print(s.run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True))
p = s.Popen(["cat"], stdin=s.PIPE, stdout=s.PIPE); data = os.urandom(1 << 20); print(p.communicate(data)[0] == data)
try: s.run(["sleep", "100"], timeout=0.1)
except s.TimeoutExpired: print("timeout")
p = s.Popen(["sleep", "100"], start_new_session=True); print(os.getsid(p.pid) == p.pid); os.killpg(p.pid, 15); print(p.wait())
try: s.run(["/no/such/thing"])
except FileNotFoundError as e: print(e)
print(s.run("yes | head -3 | tr y n", shell=True, capture_output=True, text=True, env={"PATH": "/bin"}, cwd="/").stdout)
r, w = os.pipe(); print(s.run(["sh", "-c", f"echo through >&{w}"], pass_fds=[w]).returncode, os.read(r, 100))
print([s.call([sys.executable, "-S", "-c", f"exit({n})"]) for n in range(5)])
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "kill -9 $$"], os.environ); print(os.waitpid(pid, 0)[1])
"#,
    );
}

#[test]
fn multiprocessing_in_every_start_method() {
    python(
        r#"
import multiprocessing as m, os
from multiprocessing import shared_memory
def square(n): return n * n
def child(q, l, v, c):
    for _ in range(100):
        with l: v.value += 1
    q.put(v.value > 0); c.send("hello"); c.close()
if __name__ == "__main__":
    for how in ("fork", "spawn", "forkserver"):
        x = m.get_context(how)
        with x.Pool(3) as p: print(how, sum(p.map(square, range(200))))
        q, l, v = x.Queue(), x.Lock(), x.Value("i", 0); a, b = x.Pipe()
        ps = [x.Process(target=child, args=(q, l, v, b)) for _ in range(3)]
        [p.start() for p in ps]; print([q.get(timeout=100) for _ in ps], [a.recv() for _ in ps])
        [p.join() for p in ps]; print(v.value, [p.exitcode for p in ps])
    s = shared_memory.SharedMemory(create=True, size=10000); s.buf[:5] = b"share"
    t = shared_memory.SharedMemory(s.name); print(bytes(t.buf[:5]), t.size >= 10000); t.close(); s.close(); s.unlink()
    with m.Manager() as g:
        d = g.dict(); p = m.Process(target=d.update, args=({1: 2},)); p.start(); p.join(); print(dict(d))
"#,
    );
}

#[test]
fn sqlite() {
    python(
        r#"
import sqlite3, threading, os
for mode in ("delete", "wal"):
    name = f"{mode}.db"; db = sqlite3.connect(name, timeout=60); print(db.execute(f"pragma journal_mode={mode}").fetchone())
    db.execute("create table t (n integer primary key, s text)")
    with db: db.executemany("insert into t values (?, ?)", ((n, f"row {n}") for n in range(5000)))
    def add(base):
        own = sqlite3.connect(name, timeout=60)
        for n in range(20):
            with own: own.execute("insert into t values (?, 'x')", (base + n,))
        own.close()
    ts = [threading.Thread(target=add, args=(10000 * i,)) for i in range(1, 4)]; [t.start() for t in ts]; [t.join() for t in ts]
    print(db.execute("select count(*), sum(n), max(s) from t").fetchone(), db.execute("pragma integrity_check").fetchone())
    if os.fork() == 0:
        own = sqlite3.connect(name); own.execute("begin immediate"); own.execute("delete from t"); os._exit(0)
    os.wait(); print(db.execute("select count(*) from t").fetchone()); db.execute("vacuum"); db.close(); print(os.path.getsize(name))
print(sorted(os.listdir(".")))
"#,
    );
}

#[test]
fn asyncio_over_pipes() {
    python(
        r#"
import asyncio, os, signal
async def main():
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    data = b"x" * 500000 + b"\n"; out, _ = await p.communicate(data); print(out == data, p.returncode)
    ps = [await asyncio.create_subprocess_shell(f"sleep 0.0{n}; echo {n}; exit {n}", stdout=-1) for n in range(5)]
    print(await asyncio.gather(*(p.communicate() for p in ps)), [p.returncode for p in ps])
    r, w = os.pipe(); loop = asyncio.get_running_loop(); reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(r, "rb"))
    t, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(w, "wb"))
    t.write(b"a\nb\n"); print(await reader.readline(), await reader.readline()); t.close(); print(await reader.read())
    async def serve(r, w): w.write((await r.readline()).upper()); await w.drain(); w.close()
    s = await asyncio.start_unix_server(serve, "socket")
    async def ask(n):
        r, w = await asyncio.open_unix_connection("socket"); w.write(b"line %d\n" % n); x = await r.read(); w.close(); return x
    print(sorted(await asyncio.gather(*(ask(n) for n in range(20))))); s.close()
    e = asyncio.Event(); loop.add_signal_handler(signal.SIGUSR1, e.set); os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(e.wait(), 60); print("signal")
    try: await asyncio.wait_for(asyncio.sleep(100), 0.05)
    except asyncio.TimeoutError: print("timeout")
    print(await asyncio.to_thread(lambda: 42))
asyncio.run(main())
"#,
    );
}

#[test]
fn maps_signals_and_temporary_files() {
    python(
        r#"
import mmap, os, signal, tempfile, time, resource, faulthandler, fcntl, select
with tempfile.NamedTemporaryFile() as t:
    t.write(b"a" * 10000); t.flush(); m = mmap.mmap(t.fileno(), 10000); m[5000:5005] = b"hello"; m.flush()
    print(os.pread(t.fileno(), 5, 5000), m.find(b"hello")); m.resize(20000); print(len(m), os.fstat(t.fileno()).st_size)
    c = mmap.mmap(t.fileno(), 0, access=mmap.ACCESS_COPY); c[0] = 90; print(os.pread(t.fileno(), 1, 0))
m = mmap.mmap(-1, 8192)
if os.fork() == 0: m[0] = 7; os._exit(0)
os.wait(); print(m[0])
with tempfile.TemporaryDirectory(dir=".") as d: open(d + "/f", "w").write("x"); print(os.listdir(d))
with tempfile.TemporaryFile() as f: f.write(b"nameless"); f.seek(0); print(f.read())
got = []
for s in (signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD): signal.signal(s, lambda n, f: got.append(n))
os.kill(os.getpid(), signal.SIGUSR1); signal.setitimer(signal.ITIMER_REAL, 0.02); signal.pause()
if os.fork() == 0: os._exit(3)
print(os.wait()[1] >> 8, sorted(got))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]); os.kill(os.getpid(), signal.SIGUSR2)
print(signal.sigpending(), signal.sigwaitinfo([signal.SIGUSR2]).si_pid == os.getpid(), signal.sigtimedwait([signal.SIGUSR2], 0.01))
pid = os.fork()
if pid == 0: os.kill(os.getpid(), signal.SIGSTOP); os._exit(9)
print(os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])); os.kill(pid, signal.SIGCONT); print(os.waitpid(pid, 0)[1] >> 8)
pid = os.fork()
if pid == 0: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); faulthandler._sigsegv()
print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
f = open("lock", "w"); fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
try: fcntl.flock(open("lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError as e: print(e)
e = select.epoll(); r, w = os.pipe(); e.register(r, select.EPOLLIN); print(e.poll(0)); os.write(w, b"x"); print(e.poll(60)[0][1])
t = time.monotonic(); time.sleep(0.05); print(0.05 <= time.monotonic() - t < 30)
"#,
    );
}
