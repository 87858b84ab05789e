//! Where things are in an address space, and the structures of the stub's text.
//!
//! The stub region lies at the top of the 47-bit user half, above everything that a guest may map:
//!
//! | offset | what | guest code may |
//! |---|---|---|
//! | `TEXT` | two pages of code and constant data | read, execute |
//! | `BOARD` | what the owner lets all address spaces know | read |
//! | `ZYGOTE_PAGE` | the zygote's orders; unmapped in every other process | nothing |
//! | `VDSO` | the host's vDSO and its data pages | read, execute |
//! | `STATE` | one area per runner: its alternate signal stack | read, write |
//! | `ORDERS` | the mapper's orders | read |

/// The longest range that a runner takes the rights from itself ([`order::WITHDRAW`]), in bytes.
pub const MOST_WITHDRAWN: u64 = 0xff_ffff;
/// The longest range of what lies ready that a runner opens at once, in bytes, and how much of that it has the host fill: what a C library asks for.
pub const MOST_OPENED: u64 = 0xff_ffff;
/// See [`MOST_OPENED`].
pub const MOST_FILLED: u64 = 0x20_0000;
/// First address of the stub region: the end of what guests can use.
pub const REGION: u64 = 0x7fff_ff00_0000;
/// The stub's code and constant data.
pub const TEXT: u64 = REGION;
/// Their length.
pub const TEXT_LEN: u64 = 8192;
/// Where constant data starts there.
pub const TEXT_DATA: u64 = 0x1800;
/// A page for words that all address spaces can read and nobody in them can write.
pub const BOARD: u64 = REGION + 0x8000;
/// Where it is in the control memory: the page in front of the first slot.
pub const BOARD_OFFSET: u64 = SLOT_LEN - BOARD_LEN;
/// Its length.
pub const BOARD_LEN: u64 = 4096;
/// The zygote's page.
pub const ZYGOTE_PAGE: u64 = REGION + 0x1_0000;
/// Where the vDSO and its data are moved to.
pub const VDSO: u64 = REGION + 0x10_0000;
/// The runners' areas.
pub const STATE: u64 = REGION + 0x20_0000;
/// Size of one runner's area; areas are aligned to it.
pub const AREA_LEN: u64 = 1 << AREA_SHIFT;
/// log2 of [`AREA_LEN`].
pub const AREA_SHIFT: u32 = 16;
/// Most runners that an address space can have.
pub const MAX_RUNNERS: usize = 64;
/// The mapper's orders: a header ([`orders`]), then number and six arguments each.
pub const ORDERS: u64 = STATE + STATE_LEN;
/// Length of all runners' areas.
pub const STATE_LEN: u64 = AREA_LEN * MAX_RUNNERS as u64;
/// Length of the orders' pages.
pub const ORDERS_LEN: u64 = 1 << 15;
/// Bytes of one order.
pub const ORDER_LEN: u64 = 56;
/// Most orders in one batch.
pub const MAX_BATCH: usize = ((ORDERS_LEN - orders::LEN) / ORDER_LEN) as usize;
/// Bytes of control memory that an address space has: the areas, then the orders.
pub const SLOT_LEN: u64 = STATE_LEN + ORDERS_LEN;
/// Where the control memory has a word for each slot in which its mapper says what it has done: no address space shows it. The zygote's page comes before.
pub const STATUS: u64 = 4096;
/// Bytes of such words: up to the board.
pub const STATUS_LEN: u64 = BOARD_OFFSET - STATUS;
/// Offset of the answers in an area: for each system-call number below [`ANSWERS`] a word, negative for none.
pub const AREA_ANSWERS: u64 = 0;
/// Numbers that can have an answer.
pub const ANSWERS: usize = 264;
/// Offset of the call that guest code made through the gate.
pub const AREA_CALL: u64 = 0x840;
/// Offset of the small stack that the gate calls the vDSO on, and its end.
pub const AREA_CLOCK_STACK: u64 = 0xb00;
/// See [`AREA_CLOCK_STACK`].
pub const AREA_CLOCK_STACK_END: u64 = 0xf00;
/// Offset of a scratch `stack_t` in an area.
pub const AREA_STACK_T: u64 = 0xf00;
/// Offset, in the first runner's area, of what the gates of an address space know of memory that lies ready for them: a [`lent`] for the heap, and one for mappings.
pub const AREA_LENT: u64 = 0xf40;
/// Offset of the alternate signal stack in an area.
pub const AREA_STACK: u64 = 0x1000;
/// Its length.
pub const STACK_LEN: u64 = 0x2000;
/// Offset of the places for registers of guest threads in an area.
pub const AREA_PLACES: u64 = AREA_STACK + STACK_LEN;
/// How many there are.
pub const PLACES: usize = 8;
/// Length of each: the floating-point state as `XSAVE` writes it, then at [`PLACE_REGS`] the general registers, 18 words as in a signal frame, and FS base.
pub const PLACE_LEN: u64 = 0x1000;
/// Room for the floating-point state.
pub const XSTATE_LEN: usize = 0xf00;
/// Offset of the general registers in a place.
pub const PLACE_REGS: u64 = XSTATE_LEN as u64;
const _: () = assert!(AREA_PLACES + PLACES as u64 * PLACE_LEN <= AREA_LEN);
/// Where the program image of the zygote is loaded before it moves to [`TEXT`].
pub const BOOT: u64 = 0x1000_0000;

/// Descriptors of the zygote and of mothers. Runners keep none.
pub mod fd {
    /// Guest RAM. Mappers keep this and the next.
    pub const RAM: i32 = 3;
    /// The memory behind the zygote's page and the runners' areas.
    pub const CONTROL: i32 = 4;
    /// Orders to the zygote.
    pub const ORDERS: i32 = 5;
    /// Listeners on their way to the owner.
    pub const HAND_OVER: i32 = 6;
    /// The program file of the zygote; closed after its start, so that it becomes the number of every listener.
    pub const LISTENER: i32 = 7;
    /// In a mapper, host files that are being mapped use numbers from here on.
    pub const FILES: i32 = 16;
}

/// What tasks say with the listener that they hand over.
pub mod says {
    /// A runner.
    pub const RUNNER: u8 = b'R';
    /// A mapper.
    pub const MAPPER: u8 = b'M';
}

/// Offsets in the header of the mapper's orders.
pub mod orders {
    /// Counts batches. Written last.
    pub const SEQUENCE: u64 = 0;
    /// How many orders there are.
    pub const COUNT: u64 = 8;
    /// How often the mapper yields when it has done them, looking for more; 0 has it report by a notification instead.
    pub const STANDBY: u64 = 16;
    /// Where in the control memory it writes the sequence number when it has done them.
    pub const STATUS: u64 = 24;
    /// How many tasks the mother shall have made, not to be misled by whoever else continues her.
    pub const TASKS: u64 = 32;
    /// Length of the header.
    pub const LEN: u64 = 64;
}

/// Offsets behind [`AREA_CALL`], in cache lines: what the runner writes with each call, what the owner answers, what only the runner uses, and the reports
/// of the signal handler.
pub mod call {
    /// The number, and the upper half says which call it is: [`SEQUENCE`]. Written last.
    pub const CALL: u64 = 0;
    /// Six arguments.
    pub const ARGS: u64 = 8;
    /// Address of the `syscall` instruction.
    pub const SITE: u64 = 56;
    /// What the runner shall do, one of [`super::order`], together with the call that this is about.
    pub const ORDER: u64 = 64;
    /// What the call returns.
    pub const RESULT: u64 = 72;
    /// How the owner learns of calls: one of [`super::listening`].
    pub const LISTENING: u64 = 80;
    /// The upper half of that: how many turns the runner gives the owner for one call before it sleeps.
    pub const MOST_TURNS: u64 = 84;
    /// For which calls the runner shall save all registers without being told: a bit for each number modulo 64.
    pub const EAGER: u64 = 88;
    /// How many more times it leaves the CPU to others before it sleeps, after [`super::order::ASIDE`] and [`super::trap::ASIDE`].
    pub const YIELDS: u64 = 96;
    /// Signals whose actions are the default, and the restorer of those that have one, for [`super::answer::ACTIONS`].
    pub const DEFAULTS: u64 = 104;
    /// See [`DEFAULTS`].
    pub const RESTORER: u64 = 112;
    /// Offset in the area of the place for the registers of the thread that the runner runs, or shall load.
    pub const PLACE: u64 = 120;
    /// Counts calls, in steps of [`super::order::STEP`].
    pub const SEQUENCE: u64 = 128;
    /// 1 when all registers of the thread that makes the call are in the area, else 0.
    pub const SAVED: u64 = 136;
    /// The state components that `XSAVE` and `XRSTOR` concern.
    pub const COMPONENTS: u64 = 144;
    /// Address of the vDSO's `clock_gettime`.
    pub const CLOCK: u64 = 152;
    /// What it said, two words.
    pub const TIME: u64 = 160;
    /// The stack pointer meanwhile; where a thread goes on that is loaded.
    pub const CLOCK_SP: u64 = 176;
    /// How often the runner has left the CPU to its owner for this call: [`super::listening::IN_TURN`].
    pub const TURNS: u64 = 184;
    /// Where the report of the signal handler is; the values are in [`super::trap`].
    pub const TRAP: u64 = 192;
    /// The five arguments of the report.
    pub const TRAP_ARGS: u64 = 200;
    /// Those of [`DEFAULTS`] whose actions have flags and a restorer.
    pub const PLAIN: u64 = 240;
    /// The stack pointer at the call; in a line that only the runner writes to.
    pub const SP: u64 = 256;
    /// When it did so first: the lower half of the time-stamp counter.
    pub const LEFT: u64 = 264;
    /// Start and length of the range for [`super::order::WITHDRAW`], and the rights that are left.
    pub const WITHDRAW: u64 = 272;
    /// The number of a call whose register is needed for something else.
    pub const NUMBER: u64 = 296;
    /// Which of [`VIEWS`] a call is about: its offset there.
    pub const VIEW: u64 = 304;
    /// The thread's signal mask, for [`super::answer::SIGMASK`]; in a line of its own, because the owner looks at it after each call.
    pub const SIGMASK: u64 = 320;
    /// Descriptors below 64 that `close` closes by saying so, and those that it has closed: a bit each.
    pub const CLOSABLE: u64 = 328;
    /// See [`CLOSABLE`].
    pub const CLOSED: u64 = 336;
    /// Which descriptor `fstat` is answered for, or -1; which of [`super::board::VERSION`] that is true for; and the `struct stat`.
    pub const STAT_FD: u64 = 384;
    /// See [`STAT_FD`].
    pub const STAT_VERSION: u64 = 392;
    /// See [`STAT_FD`].
    pub const STAT: u64 = 400;
    /// Its length in words.
    pub const STAT_WORDS: usize = 18;
    /// Files whose content is in the address space, [`VIEW_LEN`] bytes each: descriptor or -1, address of the header ([`super::view`]), address of the content.
    pub const VIEWS: u64 = 544;
    /// See [`VIEWS`].
    pub const VIEW_LEN: u64 = 24;
    /// How many there are.
    pub const VIEW_COUNT: usize = 2;
    /// Which of [`super::board::VERSION`] they are true for.
    pub const VIEWS_VERSION: u64 = VIEWS + VIEW_LEN * VIEW_COUNT as u64;
    /// Registers that the vDSO puts on its stack, while it runs: `rbp`, `rbx`, `r12` to `r15`.
    pub const KEPT: u64 = 640;
}

/// Offsets in the header of a file whose content is in an address space ([`crate::FileView::HEADER`]). The owner's kernel reads what the gate has written.
pub mod view {
    /// The file's size in bytes, a half word; grows.
    pub const SIZE: u64 = 0;
    /// Up to where it may grow, likewise.
    pub const CAPACITY: u64 = 4;
    /// When it was read first since it was written last: nanoseconds of `CLOCK_REALTIME_COARSE`.
    pub const READ: u64 = 8;
    /// When it was written last.
    pub const WRITTEN: u64 = 16;
    /// How often the gate has said the one, a half word.
    pub const READS: u64 = 24;
    /// How often it has said the other.
    pub const WRITES: u64 = 28;
}

/// Offsets in what is said of memory that lies ready.
pub mod lent {
    // First, where what was taken of it ends, an address; 0 when nothing is lent. Of the heap that is the program break, and the next piece is taken above it; a mapping is taken below.
    /// How far the gate may go.
    pub const LIMIT: u64 = 8;
    /// Length of both.
    pub const LEN: u64 = 16;
}

/// Offsets in [`BOARD`].
pub mod board {
    /// Counts how often the owner has recalled what he said of files.
    pub const VERSION: u64 = 0;
}
const _: () = assert!(AREA_STACK_T + 24 <= AREA_LENT && AREA_LENT + 2 * lent::LEN <= AREA_STACK);
const _: () = assert!(call::STAT + 8 * call::STAT_WORDS as u64 <= call::VIEWS);
const _: () =
    assert!(call::VIEWS_VERSION + 8 <= call::KEPT && AREA_CALL + call::KEPT + 48 <= AREA_CLOCK_STACK);

/// Values of [`call::LISTENING`]: how the owner learns of a call. They are compared as numbers. The lowest byte is the runner's selector for `PR_SET_SYSCALL_USER_DISPATCH` (`prctl(2)`): 1
/// has the host send a signal for each call from outside of the text, 0 leaves it to the filter.
pub mod listening {
    /// By a notification.
    pub const NOT: u64 = 0;
    /// He looks at [`super::call::CALL`] and [`super::call::TRAP`] on another host CPU.
    pub const ON_ANOTHER_CPU: u64 = 1;
    /// He looks at [`super::call::CALL`] when the runner leaves him their host CPU, as he does for it.
    pub const IN_TURN: u64 = 0x100;
}

/// What a runner that waits in the gate is told to do. `SAVE` is the least: whoever has saved looks for more.
pub mod order {
    /// Save the registers, and wait on.
    pub const SAVE: u32 = 1;
    /// Go on with the result.
    pub const ANSWERED: u32 = 2;
    /// Load other registers, and go on with them.
    pub const LOAD: u32 = 3;
    /// Take rights from a range of memory, [`super::call::WITHDRAW`], and go on with the result.
    pub const WITHDRAW: u32 = 4;
    /// Leave the CPU to another runner and wait on: another order for the same call follows.
    pub const ASIDE: u32 = 5;
    /// Sequence numbers leave room for these.
    pub const STEP: u32 = 256;
}

/// Values of [`call::TRAP`]; 0 is no report.
pub mod trap {
    /// The handler has reported.
    pub const POSTED: u64 = 1;
    /// The owner is at work on it.
    pub const TAKEN: u64 = 2;
    /// The owner is at work on it, and wants the runner's CPU for that.
    pub const ASIDE: u64 = 3;
    /// It may go on.
    pub const ANSWERED: u64 = 8;
}

/// Words behind [`AREA_ANSWERS`] that are no answers.
pub mod answer {
    /// None.
    pub const NONE: u64 = u64::MAX;
    /// The vDSO knows.
    pub const CLOCK: u64 = u64::MAX - 1;
    /// The area has the thread's signal mask.
    pub const SIGMASK: u64 = u64::MAX - 2;
    /// The area has the process's default actions.
    pub const ACTIONS: u64 = u64::MAX - 3;
    /// The area may have the attributes of the file that `fstat` asks for.
    pub const FSTAT: u64 = u64::MAX - 4;
    /// The same for `newfstatat`.
    pub const NEWFSTATAT: u64 = u64::MAX - 5;
    /// The area says which descriptors it may close.
    pub const CLOSE: u64 = u64::MAX - 6;
    /// The area says whether the content of the file that it reads or writes is in the address space.
    pub const VIEW: u64 = u64::MAX - 7;
    /// The first runner's area says how far the heap may grow.
    pub const HEAP: u64 = u64::MAX - 8;
    /// It says where there is memory for a mapping.
    pub const MAPS: u64 = u64::MAX - 9;
}

/// System-call numbers that no kernel has: how the stub talks to its owner.
pub mod nr {
    /// A signal handler reports: signal, `siginfo_t`, `ucontext_t`, FS base, GS base.
    pub const TRAP: u64 = 1000;
    /// The mapper waits for orders: last result, number of orders not done, the batch.
    pub const DONE: u64 = 1001;
    /// A runner waits until it has something to do: the words of its area say what for.
    pub const WAIT: u64 = 1002;
}

/// Offsets in `ucontext_t` on x86_64 (`uapi/asm/ucontext.h`, `uapi/asm/sigcontext.h`).
pub mod uc {
    /// A pointer that the host sets to 0 in every frame, and never reads.
    pub const LINK: usize = 8;
    /// Start of the alternate stack.
    pub const STACK: usize = 16;
    /// The general registers, from `r8` to `eflags`: 18 words.
    pub const GREGS: usize = 40;
    /// Error code of the last fault.
    pub const ERR: usize = GREGS + 152;
    /// Vector of the last fault.
    pub const TRAPNO: usize = GREGS + 160;
    /// Address of the last page fault.
    pub const CR2: usize = GREGS + 176;
    /// Pointer to the floating-point image.
    pub const FPSTATE: usize = GREGS + 184;
    /// Unused words of `sigcontext`, where the stub finds FS and GS base.
    pub const SPARE: usize = GREGS + 192;
    /// The signal mask.
    pub const SIGMASK: usize = GREGS + 256;
    /// Size up to the end of the mask.
    pub const LEN: usize = SIGMASK + 8;
}
