//! The code that runs inside address spaces, and the page and the tiny ELF file that carry it.
//!
//! Nothing here uses a stack or memory that guest code could change to gain something: see the notes at each part.

use crate::filter;
use crate::layout::{self, answer, call, fd, lent, listening, nr, order, orders, trap, view};
use crate::sys;
use std::arch::global_asm;

/// `SA_RESTORER` (`asm/signal.h`).
const SA_RESTORER: u64 = 0x0400_0000;
/// How many times a runner looks for something to do before it sleeps: some 200 µs.
const PATIENCE: u32 = 5000;

global_asm!(
    include_str!("stub.s"),
    include_str!("gate.s"),
    TEXT = const layout::TEXT,
    TEXT_LEN = const layout::TEXT_LEN,
    BOARD = const layout::BOARD,
    BOARD_LEN = const layout::BOARD_LEN,
    BOARD_OFFSET = const layout::BOARD_OFFSET,
    BOARD_VERSION = const layout::BOARD - layout::TEXT + layout::board::VERSION,
    ZYGOTE_PAGE = const layout::ZYGOTE_PAGE,
    STATE = const layout::STATE,
    STATE_LEN = const layout::STATE_LEN,
    ORDERS = const layout::ORDERS,
    ORDERS_LEN = const layout::ORDERS_LEN,
    ORDER_LEN = const layout::ORDER_LEN,
    ORDERS_SEQUENCE = const orders::SEQUENCE,
    ORDERS_COUNT = const orders::COUNT,
    ORDERS_STANDBY = const orders::STANDBY,
    ORDERS_STATUS = const orders::STATUS,
    ORDERS_TASKS = const orders::TASKS,
    ORDERS_HEADER = const orders::LEN,
    AREA_SHIFT = const layout::AREA_SHIFT,
    AREA_LEN = const layout::AREA_LEN,
    AREA_STACK = const layout::AREA_STACK,
    AREA_STACK_T = const layout::AREA_STACK_T,
    STACK_LEN = const layout::STACK_LEN,
    UC_SPARE = const layout::uc::SPARE,
    NR_TRAP = const nr::TRAP,
    NR_DONE = const nr::DONE,
    NR_WAIT = const nr::WAIT,
    STATE_TAG = const layout::STATE >> 20,
    LAST_ANSWER = const layout::ANSWERS - 1,
    AREA_ANSWERS = const layout::AREA_ANSWERS,
    LISTENING = const layout::AREA_CALL + call::LISTENING,
    OTHER_CPU = const listening::ON_ANOTHER_CPU,
    TURNS = const layout::AREA_CALL + call::TURNS,
    MOST_TURNS = const layout::AREA_CALL + call::MOST_TURNS,
    LEFT = const layout::AREA_CALL + call::LEFT,
    CALL = const layout::AREA_CALL + call::CALL,
    ARGS = const layout::AREA_CALL + call::ARGS,
    SITE = const layout::AREA_CALL + call::SITE,
    RESULT = const layout::AREA_CALL + call::RESULT,
    ORDER = const layout::AREA_CALL + call::ORDER,
    SEQUENCE = const layout::AREA_CALL + call::SEQUENCE,
    SAVED = const layout::AREA_CALL + call::SAVED,
    EAGER = const layout::AREA_CALL + call::EAGER,
    COMPONENTS = const layout::AREA_CALL + call::COMPONENTS,
    TRAP = const layout::AREA_CALL + call::TRAP,
    TRAP_ARGS = const layout::AREA_CALL + call::TRAP_ARGS,
    CLOCK = const layout::AREA_CALL + call::CLOCK,
    TIME = const layout::AREA_CALL + call::TIME,
    CLOCK_SP = const layout::AREA_CALL + call::CLOCK_SP,
    KEPT = const layout::AREA_CALL + call::KEPT,
    CLOCK_STACK_END = const layout::AREA_CLOCK_STACK_END,
    SIGMASK = const layout::AREA_CALL + call::SIGMASK,
    CLOSABLE = const layout::AREA_CALL + call::CLOSABLE,
    CLOSED = const layout::AREA_CALL + call::CLOSED,
    STAT_FD = const layout::AREA_CALL + call::STAT_FD,
    STAT_VERSION = const layout::AREA_CALL + call::STAT_VERSION,
    STAT = const layout::AREA_CALL + call::STAT,
    STAT_WORDS = const call::STAT_WORDS,
    VIEWS = const layout::AREA_CALL + call::VIEWS,
    VIEW_LEN = const call::VIEW_LEN,
    VIEWS_VERSION = const layout::AREA_CALL + call::VIEWS_VERSION,
    VIEW = const layout::AREA_CALL + call::VIEW,
    VIEW_SIZE = const view::SIZE,
    VIEW_CAPACITY = const view::CAPACITY,
    VIEW_READ = const view::READ,
    VIEW_WRITTEN = const view::WRITTEN,
    VIEW_READS = const view::READS,
    VIEW_WRITES = const view::WRITES,
    NUMBER = const layout::AREA_CALL + call::NUMBER,
    HEAP = const layout::STATE - layout::TEXT + layout::AREA_LENT,
    MAPS = const layout::STATE - layout::TEXT + layout::AREA_LENT + lent::LEN,
    LIMIT = const lent::LIMIT,
    NEW_RIGHTS = const libc::PROT_READ | libc::PROT_WRITE,
    NEW_FLAGS = const libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    MOST_OPENED = const layout::MOST_OPENED,
    NR_MADVISE = const libc::SYS_madvise,
    GUARD_REMOVE = const sys::MADV_GUARD_REMOVE,
    POPULATE_READ = const libc::MADV_POPULATE_READ,
    MOST_FILLED = const layout::MOST_FILLED,
    NR_PWRITE = const libc::SYS_pwrite64,
    REALTIME_COARSE = const libc::CLOCK_REALTIME_COARSE,
    AT_EMPTY_PATH = const libc::AT_EMPTY_PATH,
    DEFAULTS = const layout::AREA_CALL + call::DEFAULTS,
    RESTORER = const layout::AREA_CALL + call::RESTORER,
    PLAIN = const layout::AREA_CALL + call::PLAIN,
    SP = const layout::AREA_CALL + call::SP,
    PLACE = const layout::AREA_CALL + call::PLACE,
    REGS = const layout::PLACE_REGS,
    FLAGS = const crate::frame::FLAGS,
    STEP = const order::STEP,
    ANSWERED = const order::ANSWERED,
    LOAD = const order::LOAD,
    WITHDRAW = const order::WITHDRAW,
    WITHDRAWN = const layout::AREA_CALL + call::WITHDRAW,
    NR_MPROTECT = const libc::SYS_mprotect,
    ASIDE = const order::ASIDE,
    YIELDS = const layout::AREA_CALL + call::YIELDS,
    NR_YIELD = const libc::SYS_sched_yield,
    NR_CLOCK = const libc::SYS_clock_gettime,
    NR_SIGACTION = const libc::SYS_rt_sigaction,
    SA_RESTORER = const SA_RESTORER,
    TRAP_POSTED = const trap::POSTED,
    TRAP_ASIDE = const trap::ASIDE,
    TRAP_ANSWERED = const trap::ANSWERED,
    ANSWER_NONE = const answer::NONE as i64,
    ANSWER_CLOCK = const answer::CLOCK as i64,
    ANSWER_SIGMASK = const answer::SIGMASK as i64,
    ANSWER_ACTIONS = const answer::ACTIONS as i64,
    ANSWER_FSTAT = const answer::FSTAT as i64,
    ANSWER_NEWFSTATAT = const answer::NEWFSTATAT as i64,
    ANSWER_CLOSE = const answer::CLOSE as i64,
    ANSWER_VIEW = const answer::VIEW as i64,
    ANSWER_HEAP = const answer::HEAP as i64,
    ANSWER_MAPS = const answer::MAPS as i64,
    PATIENCE = const PATIENCE,
    RUNNER_FPROG = const layout::TEXT + data::RUNNER_FPROG,
    MAPPER_FPROG = const layout::TEXT + data::MAPPER_FPROG,
    MSGHDR = const layout::TEXT + data::MSGHDR,
    MAPPER_MSGHDR = const layout::TEXT + data::MAPPER_MSGHDR,
    FD_PROGRAM = const fd::LISTENER,
    FD_CONTROL = const fd::CONTROL,
    FD_ORDERS = const fd::ORDERS,
    FD_HAND_OVER = const fd::HAND_OVER,
    FD_LISTENER = const fd::LISTENER,
);

/// Offsets of the constant data in the text.
pub mod data {
    use crate::layout::TEXT_DATA;
    /// `struct sock_fprog` of the runners' filter.
    pub const RUNNER_FPROG: u64 = TEXT_DATA;
    /// `struct msghdr` with a runner's listener.
    pub const MSGHDR: u64 = TEXT_DATA + 0x10;
    /// Its `struct iovec`.
    pub const IOVEC: u64 = TEXT_DATA + 0x50;
    /// Its control message, and that of mappers.
    pub const CMSG: u64 = TEXT_DATA + 0x60;
    /// `struct sigaction` of every signal.
    pub const SIGACTION: u64 = TEXT_DATA + 0x80;
    /// `struct rlimit` of zeros.
    pub const RLIMIT: u64 = TEXT_DATA + 0xa0;
    /// `struct sock_fprog` of the mappers' filter.
    pub const MAPPER_FPROG: u64 = TEXT_DATA + 0xb0;
    /// The mappers' filter.
    pub const MAPPER_FILTER: u64 = TEXT_DATA + 0xc0;
    /// The runners' filter.
    pub const RUNNER_FILTER: u64 = TEXT_DATA + 0x100;
    /// `struct msghdr` with a mapper's listener.
    pub const MAPPER_MSGHDR: u64 = TEXT_DATA + 0x500;
    /// Its `struct iovec`.
    pub const MAPPER_IOVEC: u64 = TEXT_DATA + 0x540;
    /// What runners say with their listeners.
    pub const RUNNER_SAYS: u64 = TEXT_DATA + 0x550;
    /// What mappers say.
    pub const MAPPER_SAYS: u64 = TEXT_DATA + 0x551;
}

unsafe extern "C" {
    static vmspace_stub_start: u8;
    static vmspace_stub_boot: u8;
    static vmspace_stub_sent: u8;
    static vmspace_stub_closed: u8;
    static vmspace_stub_handler: u8;
    static vmspace_stub_rested: u8;
    static vmspace_stub_yielded: u8;
    static vmspace_stub_trapped: u8;
    static vmspace_stub_returned: u8;
    static vmspace_stub_gate: u8;
    static vmspace_stub_gate_known: u8;
    static vmspace_stub_gate_mask: u8;
    static vmspace_stub_gate_masked: u8;
    static vmspace_stub_gate_clock: u8;
    static vmspace_stub_gate_clocked: u8;
    static vmspace_stub_gate_action: u8;
    static vmspace_stub_gate_acted: u8;
    static vmspace_stub_gate_closed: u8;
    static vmspace_stub_gate_telling: u8;
    static vmspace_stub_gate_told: u8;
    static vmspace_stub_gate_viewing: u8;
    static vmspace_stub_gate_opened: u8;
    static vmspace_stub_gate_taken: u8;
    static vmspace_stub_gate_viewed: u8;
    static vmspace_stub_gate_given: u8;
    static vmspace_stub_gate_refused: u8;
    static vmspace_stub_gate_others: u8;
    static vmspace_stub_gate_posting: u8;
    static vmspace_stub_gate_posted: u8;
    static vmspace_stub_gate_waited: u8;
    static vmspace_stub_gate_yielded: u8;
    static vmspace_stub_gate_withdrawn: u8;
    static vmspace_stub_gate_answered: u8;
    static vmspace_stub_gate_load: u8;
    static vmspace_stub_gate_end: u8;
    static vmspace_stub_end: u8;
}

/// Addresses in the text. Those of calls are what the host reports: the instruction behind `syscall`.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Signal handler.
    pub handler: u64,
    /// The call by which the handler waits for the answer to a report that the owner took.
    pub rested: u64,
    /// The call by which it leaves the CPU to another meanwhile.
    pub yielded: u64,
    /// The call that reports a trap.
    pub trapped: u64,
    /// `rt_sigreturn`.
    pub returned: u64,
    /// The `sendmsg` of a new runner.
    pub sent: u64,
    /// The `close_range` of a new runner.
    pub closed: u64,
    /// The gate's parts.
    pub gate: Gate,
}

/// The gate, and the instructions in it that matter to whoever finds a runner there, in the order of their addresses.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Its first instruction.
    pub start: u64,
    /// The result is in its register, the way back not in its.
    pub known: u64,
    /// From here on the number's register holds something else.
    pub mask: u64,
    /// From here on the mask is the new one.
    pub masked: u64,
    /// From here on registers belong to the vDSO.
    pub clock: u64,
    /// From here on they are the thread's again.
    pub clocked: u64,
    /// From here on the number's register holds something else.
    pub action: u64,
    /// What is in front of it can be done again.
    pub acted: u64,
    /// A descriptor is closed.
    pub closed: u64,
    /// From here on arguments and site are in the area, and arguments change.
    pub telling: u64,
    /// They are back, and the attributes are told.
    pub told: u64,
    /// From here on arguments, number, stack pointer and site are in the area, and all of them change.
    pub viewing: u64,
    /// The call by which it opens memory that lay ready.
    pub opened: u64,
    /// It has taken that if the zero flag is set.
    pub taken: u64,
    /// The content is read or written, and they are still to be brought back.
    pub viewed: u64,
    /// Memory is taken, likewise.
    pub given: u64,
    /// None of that has been done, likewise.
    pub refused: u64,
    /// They are back.
    pub others: u64,
    /// From here on arguments and site are in the area, and the way back is no longer in its register.
    pub posting: u64,
    /// From here on the call is in the area.
    pub posted: u64,
    /// The call by which a runner waits.
    pub waited: u64,
    /// The call by which it leaves the CPU to another.
    pub yielded: u64,
    /// The call by which it takes rights from memory.
    pub withdrawn: u64,
    /// As `known`, and the call is no longer in the area.
    pub answered: u64,
    /// From here on registers are replaced by those in the area.
    pub load: u64,
    /// The end.
    pub end: u64,
}

fn offset(symbol: *const u8) -> u64 {
    (symbol as u64).wrapping_sub(&raw const vmspace_stub_start as u64)
}

impl Addresses {
    /// The addresses in every address space.
    pub fn get() -> Addresses {
        let at = |symbol| layout::TEXT + offset(symbol);
        Addresses {
            handler: at(&raw const vmspace_stub_handler),
            rested: at(&raw const vmspace_stub_rested),
            yielded: at(&raw const vmspace_stub_yielded),
            trapped: at(&raw const vmspace_stub_trapped),
            returned: at(&raw const vmspace_stub_returned),
            sent: at(&raw const vmspace_stub_sent),
            closed: at(&raw const vmspace_stub_closed),
            gate: Gate {
                start: at(&raw const vmspace_stub_gate),
                known: at(&raw const vmspace_stub_gate_known),
                mask: at(&raw const vmspace_stub_gate_mask),
                masked: at(&raw const vmspace_stub_gate_masked),
                clock: at(&raw const vmspace_stub_gate_clock),
                clocked: at(&raw const vmspace_stub_gate_clocked),
                action: at(&raw const vmspace_stub_gate_action),
                acted: at(&raw const vmspace_stub_gate_acted),
                closed: at(&raw const vmspace_stub_gate_closed),
                telling: at(&raw const vmspace_stub_gate_telling),
                told: at(&raw const vmspace_stub_gate_told),
                viewing: at(&raw const vmspace_stub_gate_viewing),
                opened: at(&raw const vmspace_stub_gate_opened),
                taken: at(&raw const vmspace_stub_gate_taken),
                viewed: at(&raw const vmspace_stub_gate_viewed),
                given: at(&raw const vmspace_stub_gate_given),
                refused: at(&raw const vmspace_stub_gate_refused),
                others: at(&raw const vmspace_stub_gate_others),
                posting: at(&raw const vmspace_stub_gate_posting),
                posted: at(&raw const vmspace_stub_gate_posted),
                waited: at(&raw const vmspace_stub_gate_waited),
                yielded: at(&raw const vmspace_stub_gate_yielded),
                withdrawn: at(&raw const vmspace_stub_gate_withdrawn),
                answered: at(&raw const vmspace_stub_gate_answered),
                load: at(&raw const vmspace_stub_gate_load),
                end: at(&raw const vmspace_stub_gate_end),
            },
        }
    }
}

/// Whether an address lies in the text.
pub fn in_text(ip: u64) -> bool {
    (layout::TEXT..layout::TEXT + layout::TEXT_LEN).contains(&ip)
}

/// The text: code, then constant data.
pub fn text_page() -> Vec<u8> {
    let len = offset(&raw const vmspace_stub_end) as usize;
    assert!(len <= layout::TEXT_DATA as usize, "the stub's code is too long");
    // SAFETY: the two symbols enclose the code that the assembler placed in read-only data.
    let code = unsafe { std::slice::from_raw_parts(&raw const vmspace_stub_start, len) };
    let mut page = vec![0u8; layout::TEXT_LEN as usize];
    page[..len].copy_from_slice(code);
    let mut put = |offset: u64, words: &[u64]| {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        page[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
    };
    let addresses = Addresses::get();
    let (mapper, runner) = (filter::mapper(), filter::runner(&addresses));
    put(data::MAPPER_FPROG, &[mapper.len() as u64, layout::TEXT + data::MAPPER_FILTER]);
    put(data::MAPPER_FILTER, &mapper);
    put(data::RUNNER_FPROG, &[runner.len() as u64, layout::TEXT + data::RUNNER_FILTER]);
    put(data::RUNNER_FILTER, &runner);
    assert!(data::RUNNER_FILTER + 8 * runner.len() as u64 <= data::MAPPER_MSGHDR, "the filter is too long");
    // msghdr: no name, one iovec, one control message.
    put(data::MSGHDR, &[0, 0, layout::TEXT + data::IOVEC, 1, layout::TEXT + data::CMSG, 24, 0]);
    put(data::IOVEC, &[layout::TEXT + data::RUNNER_SAYS, 1]);
    put(data::MAPPER_MSGHDR, &[0, 0, layout::TEXT + data::MAPPER_IOVEC, 1, layout::TEXT + data::CMSG, 24, 0]);
    put(data::MAPPER_IOVEC, &[layout::TEXT + data::MAPPER_SAYS, 1]);
    put(data::RUNNER_SAYS, &[u64::from(layout::says::RUNNER) | u64::from(layout::says::MAPPER) << 8]);
    // cmsghdr: length, SOL_SOCKET and SCM_RIGHTS; the descriptor.
    put(data::CMSG, &[20, 1 | 1 << 32, fd::LISTENER as u64]);
    const FLAGS: u64 = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART) as u64 | 0x0400_0000;
    put(data::SIGACTION, &[addresses.handler, FLAGS, addresses.handler, !0]);
    put(data::RLIMIT, &[0, 0]);
    page
}

/// An ELF file with these pages, loaded at [`layout::BOOT`], that starts the zygote. They are at file offset 4096.
pub fn program_file() -> Vec<u8> {
    let mut file = Vec::new();
    let entry = layout::BOOT + offset(&raw const vmspace_stub_boot);
    // Elf64_Ehdr: ET_EXEC, EM_X86_64, one program header behind it.
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [entry, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // Elf64_Phdr: PT_LOAD, read and execute.
    let len = layout::TEXT_LEN;
    for word in [1 | 5 << 32, 4096, layout::BOOT, layout::BOOT, len, len, 4096] {
        file.extend_from_slice(&u64::to_le_bytes(word));
    }
    file.resize(4096, 0);
    file.extend_from_slice(&text_page());
    file
}
