//! A terminal: line discipline, output queue, session, and who waits for it.
//!
//! One [`Terminal`] is a pair of ends: the program's (slave) and the other, which is a pseudo-terminal's master or the outside's
//! terminal ([`Far`]). One lock holds the state of both, so that order is kept between them.
//!
//! Lock order: a session's `tty`, then a terminal's state; a terminal's state is not held while signals are sent, queues are woken, or a stream
//! is waited for. The outside's stream is read and written with it held: those calls never block.

use super::ldisc::{Effects, LineDiscipline};
use super::packet;
use crate::Kernel;
use crate::signal::{SigInfo, group, sig};
use crate::sync::Mutex;
use crate::task::Session;
use crate::wait::{PollEvents, WaitQueue};
use abi::fs::DeviceId;
use abi::time::Timespec;
use abi::tty::{LocalFlags, Termios2, Winsize, cc};
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use hal::{Readiness, Stream};

/// Most bytes in flight in each direction, as Linux's tty buffers.
pub(super) const QUEUE_MAX: usize = 65536;

/// The other end.
pub(super) enum Far {
    /// A pseudo-terminal's master.
    Master,
    /// The outside's terminal: where to read from and where to write to.
    Console { input: Arc<dyn Stream>, output: Arc<dyn Stream> },
}

/// The changing part of a terminal.
pub(super) struct State {
    pub ldisc: LineDiscipline,
    /// From the far end, not yet seen by the line discipline because it had no room.
    pub incoming: VecDeque<u8>,
    /// To the far end.
    pub outgoing: VecDeque<u8>,
    pub window: Winsize,
    /// The size that the outside's window had when it was looked at last.
    pub outside: Option<Winsize>,
    /// The session that it controls; dead for none. The session holds the terminal, not the other way round.
    pub session: Weak<Session>,
    /// The foreground process group; 0 for none.
    pub foreground: i32,
    /// Counts hang-ups: files opened before the last one are dead.
    pub generation: u64,
    /// Open files of the near end.
    pub near_opens: usize,
    /// The near end was open once, so nobody there means closed rather than not yet opened.
    pub near_used: bool,
    /// The far end is gone.
    pub far_closed: bool,
    /// `TIOCSPTLCK`.
    pub locked: bool,
    /// `TIOCEXCL`.
    pub exclusive: bool,
    /// Packet mode (`TIOCPKT`), and the status that waits to be read.
    pub packet: bool,
    pub status: u8,
    /// Owner and mode of its node.
    pub owner: (u32, u32, u32),
    /// When it was last read and written, for `who` and `w`.
    pub times: (Timespec, Timespec),
}

/// A terminal.
pub struct Terminal {
    /// Its number in `/dev/pts`.
    pub index: u32,
    pub(super) kernel: Weak<Kernel>,
    pub(super) far: Far,
    pub(super) state: Mutex<State>,
    /// Readers of the near end.
    pub(super) readable: WaitQueue,
    /// Writers of the near end.
    pub(super) writable: WaitQueue,
    /// Whoever waits at the far end.
    pub(super) far_queue: WaitQueue,
    /// When it was made.
    pub(super) made: Timespec,
}

/// What to do after the state's lock was let go.
#[derive(Default)]
pub(super) struct After {
    pub signals: Vec<i32>,
    pub foreground: i32,
    pub wake_readers: bool,
    pub wake_writers: bool,
    pub wake_far: bool,
}

impl Terminal {
    pub(super) fn new(kernel: &Arc<Kernel>, index: u32, far: Far, owner: (u32, u32, u32)) -> Arc<Terminal> {
        let made = Timespec::from_ns(kernel.machine.clock_ns(hal::ClockId::Realtime));
        let locked = matches!(far, Far::Master);
        Arc::new(Terminal {
            index,
            kernel: Arc::downgrade(kernel),
            far,
            state: Mutex::new(State {
                ldisc: LineDiscipline::new(Termios2::standard()),
                incoming: VecDeque::new(),
                outgoing: VecDeque::new(),
                window: Winsize::default(),
                outside: None,
                session: Weak::new(),
                foreground: 0,
                generation: 0,
                near_opens: 0,
                near_used: false,
                far_closed: false,
                locked,
                exclusive: false,
                packet: false,
                status: 0,
                owner,
                times: (made, made),
            }),
            readable: WaitQueue::new(),
            writable: WaitQueue::new(),
            far_queue: WaitQueue::new(),
            made,
        })
    }

    /// Its device number: `/dev/pts/N`.
    pub fn device(&self) -> DeviceId {
        DeviceId::new(136, self.index)
    }

    pub(super) fn is_console(&self) -> bool {
        matches!(self.far, Far::Console { .. })
    }

    /// Sends signals and wakes who waits, as the state's change asked for.
    pub(super) fn apply(&self, after: After) {
        if let Some(kernel) = self.kernel.upgrade() {
            for signo in after.signals {
                if after.foreground > 0 {
                    group::send_to_group(&kernel, after.foreground, SigInfo::kernel(signo));
                }
            }
        }
        if after.wake_readers {
            self.readable.wake_all(PollEvents::READABLE);
        }
        if after.wake_writers {
            self.writable.wake_all(PollEvents::WRITABLE);
        }
        if after.wake_far {
            self.far_queue.wake_all(PollEvents::READABLE | PollEvents::WRITABLE);
        }
    }

    /// Bytes from the far end: as many as there is room for.
    pub(super) fn receive(&self, bytes: &[u8]) -> usize {
        let mut after = After::default();
        let taken = {
            let mut state = self.state.lock();
            let taken = bytes.len().min(QUEUE_MAX.saturating_sub(state.incoming.len()));
            state.incoming.extend(bytes.get(..taken).unwrap_or_default());
            self.process(&mut state, &mut after);
            taken
        };
        self.apply(after);
        taken
    }

    /// Lets the line discipline see what came in, as far as it has room.
    pub(super) fn process(&self, state: &mut State, after: &mut After) {
        let mut effects = Effects::default();
        while state.ldisc.room() > 0 {
            let Some(c) = state.incoming.pop_front() else { break };
            state.ldisc.receive(c, &mut effects);
            if effects.flush_output {
                state.outgoing.clear();
                effects.flush_output = false;
            }
        }
        self.settle(state, effects, after);
    }

    /// Carries out what the line discipline asked for, except what needs the lock gone.
    pub(super) fn settle(&self, state: &mut State, effects: Effects, after: &mut After) {
        if effects.flush_input {
            state.status |= packet::FLUSH_READ | packet::FLUSH_WRITE;
            after.wake_writers = true;
        }
        if let Some(stop) = effects.flow {
            state.status &= !(packet::STOP | packet::START);
            state.status |= if stop { packet::STOP } else { packet::START };
            after.wake_writers |= !stop;
            after.wake_far = true;
        }
        if !effects.echo.is_empty() {
            // Echo has no one to wait for room: beyond the queue's end it is lost, as on Linux.
            let room = (QUEUE_MAX + 4096).saturating_sub(state.outgoing.len());
            state.outgoing.extend(effects.echo.iter().take(room));
            after.wake_far = true;
        }
        after.foreground = state.foreground;
        after.signals.extend(effects.signals);
        after.wake_readers |= state.ldisc.has_input(1);
        self.drain(state, after);
    }

    /// Hands output to the outside, as far as it takes it; asks to hear when it takes more.
    pub(super) fn drain(&self, state: &mut State, after: &mut After) {
        let Far::Console { output, .. } = &self.far else {
            after.wake_far |= !state.outgoing.is_empty();
            return;
        };
        while !state.outgoing.is_empty() {
            let (bytes, _) = state.outgoing.as_slices();
            match output.write(bytes) {
                Ok(0) => break,
                Ok(n) => {
                    state.outgoing.drain(..n.min(bytes.len()));
                    after.wake_writers = true;
                }
                Err(abi::Errno::EAGAIN) => {
                    output.watch(Readiness::WRITE);
                    break;
                }
                Err(_) => {
                    // Nobody reads there any more.
                    state.outgoing.clear();
                    after.wake_writers = true;
                }
            }
        }
    }

    /// Room for more output from programs.
    pub(super) fn output_room(state: &State) -> usize {
        QUEUE_MAX.saturating_sub(state.outgoing.len())
    }

    /// Changes the window's size; the foreground group hears of it if it is another.
    pub(super) fn set_window(&self, window: Winsize) {
        let foreground = {
            let mut state = self.state.lock();
            if state.window == window {
                return;
            }
            state.window = window;
            state.foreground
        };
        self.apply(After { signals: alloc::vec![sig::WINCH], foreground, ..After::default() });
    }

    /// Replaces the settings.
    pub(super) fn set_termios(&self, termios: Termios2, flush_input: bool) {
        let mut after = After::default();
        {
            let mut state = self.state.lock();
            if flush_input {
                state.ldisc.flush_input();
                state.incoming.clear();
            }
            let old = *state.ldisc.termios();
            let effects = state.ldisc.set_termios(termios);
            if state.packet {
                Self::packet_changes(&mut state, &old, &termios);
            }
            self.process(&mut state, &mut after);
            self.settle(&mut state, effects, &mut after);
            // Another mode may have made waiting input readable.
            after.wake_readers = true;
            after.wake_far = true;
        }
        self.apply(after);
    }

    fn packet_changes(state: &mut State, old: &Termios2, new: &Termios2) {
        let usual = |t: &Termios2| {
            let keys = t.cc.get(cc::VSTOP) == Some(&0o23) && t.cc.get(cc::VSTART) == Some(&0o21);
            t.input().contains(abi::tty::InputFlags::IXON) && keys
        };
        if usual(old) != usual(new) {
            state.status &= !(packet::DO_STOP | packet::NO_STOP);
            state.status |= if usual(new) { packet::DO_STOP } else { packet::NO_STOP };
        }
        if old.local().contains(LocalFlags::EXTPROC) || new.local().contains(LocalFlags::EXTPROC) {
            state.status |= packet::IOCTL;
        }
    }

    /// The far end is gone, or `vhangup(2)`: open files of the near end are dead, and the session loses its terminal. Its leader gets
    /// `SIGHUP` and `SIGCONT`, and with `whole_group` so does the foreground group.
    pub(super) fn hang_up(&self, whole_group: bool) {
        let (session, foreground) = {
            let mut state = self.state.lock();
            state.generation += 1;
            state.ldisc.flush_input();
            state.incoming.clear();
            let session = core::mem::take(&mut state.session).upgrade();
            let foreground = core::mem::take(&mut state.foreground);
            state.exclusive = false;
            (session, foreground)
        };
        if let Some(session) = session {
            let owned = session.tty.lock().take();
            drop(owned);
            if let Some(kernel) = self.kernel.upgrade() {
                if let Some(leader) = kernel.pids.process(session.id) {
                    leader.send_signal(SigInfo::kernel(sig::HUP));
                    leader.send_signal(SigInfo::kernel(sig::CONT));
                }
                if whole_group && foreground > 0 {
                    group::send_to_group(&kernel, foreground, SigInfo::kernel(sig::HUP));
                }
            }
        }
        let everything = PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::HUP | PollEvents::ERR;
        self.readable.wake_all(everything);
        self.writable.wake_all(everything);
        self.far_queue.wake_all(everything);
    }
}
