//! The code that runs inside address spaces, and the page and the tiny ELF file that carry it.
//!
//! Nothing here uses a stack or memory that guest code could change to gain something: see the notes at each part.

use crate::filter;
use crate::layout::{self, call, fd, nr, state};
use std::arch::global_asm;

/// How many times the gate looks for an answer before it does something else: some 200 µs.
const PATIENCE: u32 = 5000;

global_asm!(
    r#"
    .pushsection .rodata.vmspace_stub,"a",@progbits
    .balign 64
    .globl vmspace_stub_start
    .hidden vmspace_stub_start
vmspace_stub_start:

    // ---- The zygote's first steps, at the boot address: map the text page and the orders, go on there.
    .globl vmspace_stub_boot
    .hidden vmspace_stub_boot
vmspace_stub_boot:
    movabs rdi, {TEXT}
    mov esi, 4096
    mov edx, 5                      // PROT_READ | PROT_EXEC
    mov r10d, 0x12                  // MAP_PRIVATE | MAP_FIXED
    mov r8d, {FD_PROGRAM}
    mov r9d, 4096
    mov eax, 9                      // mmap
    syscall
    movabs rdi, {ZYGOTE_PAGE}
    mov esi, 4096
    mov edx, 3
    mov r10d, 0x11                  // MAP_SHARED | MAP_FIXED
    mov r8d, {FD_CONTROL}
    xor r9d, r9d
    mov eax, 9
    syscall
    movabs rax, {TEXT}
    lea rcx, [rip + 2f]
    lea rdx, [rip + vmspace_stub_start]
    sub rcx, rdx
    add rax, rcx
    jmp rax

    // ---- The zygote: waits for an order on its socket, does the calls that its page lists, answers.
2:  movabs rbx, {ZYGOTE_PAGE}
    mov edi, {FD_ORDERS}
    lea rsi, [rbx + 8]
    mov edx, 8
    xor eax, eax                    // read
    syscall
    cmp rax, 0
    jle 9f
    mov r12, [rbx + 16]             // number of calls
    lea r13, [rbx + 64]
3:  test r12, r12
    jz 5f
    mov rax, [r13]
    cmp rax, -2
    je 6f
    mov rdi, [r13 + 8]
    mov rsi, [r13 + 16]
    mov rdx, [r13 + 24]
    mov r10, [r13 + 32]
    mov r8, [r13 + 40]
    mov r9, [r13 + 48]
    syscall
4:  mov [r13 + 56], rax
    add r13, 64
    dec r12
    jmp 3b
5:  mov edi, {FD_ORDERS}
    lea rsi, [rbx + 8]
    mov edx, 8
    mov eax, 1                      // write
    syscall
    jmp 2b

    // Number -2: make an address space. Argument 1: offset of its areas; argument 2: the owner's pid.
6:  mov r14, [r13 + 8]
    mov r15, [r13 + 16]
    mov edi, 0x8011                 // CLONE_PARENT | SIGCHLD
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    xor r8d, r8d
    mov eax, 56                     // clone
    syscall
    test rax, rax
    jnz 4b

    // ---- The mother of an address space. She is never filtered and never runs guest code; once guest code runs beside her in the
    // same memory she relies on registers and on this page only. She makes the mapper, and each time she is continued the next runner.
    movabs rdi, {STATE}
    mov esi, {STATE_LEN}
    mov edx, 3
    mov r10d, 0x11
    mov r8d, {FD_CONTROL}
    mov r9, r14
    mov eax, 9                      // mmap
    syscall
    movabs rdi, {ORDERS}
    mov esi, {ORDERS_LEN}
    mov edx, 1                      // PROT_READ
    mov r10d, 0x11
    mov r8d, {FD_CONTROL}
    lea r9, [r14 + {STATE_LEN}]
    mov eax, 9
    syscall
    movabs rdi, {ZYGOTE_PAGE}
    mov esi, 4096
    mov eax, 11                     // munmap
    syscall
    mov edi, 1                      // PR_SET_PDEATHSIG
    mov esi, 9
    mov eax, 157
    syscall
    mov eax, 110                    // getppid
    syscall
    cmp rax, r15
    jne 9f
    xor ebx, ebx
7:  mov edi, 0x8111                 // CLONE_VM | CLONE_PARENT | SIGCHLD
    xor esi, esi
    xor edx, edx
    xor r10d, r10d
    xor r8d, r8d
    mov eax, 56
    syscall
    test rax, rax
    jz 8f
    js 9f                           // no room: her end tells the owner
    inc ebx
    mov eax, 39                     // getpid
    syscall
    mov edi, eax
    mov esi, 19                     // SIGSTOP
    mov eax, 62                     // kill
    syscall
    jmp 7b

    // ---- A task beside her: dies with the owner's thread. The first is the mapper.
8:  mov edi, 1
    mov esi, 9
    mov eax, 157
    syscall
    mov eax, 110
    syscall
    cmp rax, r15
    jne 9f
    test ebx, ebx
    jz 30f

    // ---- A runner: takes its area, its alternate stack and its filter, hands the listener over, closes everything, and reports by a
    // fault.
    lea rax, [rbx - 1]
    shl rax, {AREA_SHIFT}
    movabs rbp, {STATE}
    add rbp, rax
    lea rax, [rbp + {AREA_STACK}]
    mov [rbp + {AREA_STACK_T}], rax
    mov qword ptr [rbp + {AREA_STACK_T} + 8], 0
    mov qword ptr [rbp + {AREA_STACK_T} + 16], {STACK_LEN}
    lea rdi, [rbp + {AREA_STACK_T}]
    xor esi, esi
    mov eax, 131                    // sigaltstack
    syscall
    movabs rdx, {RUNNER_FPROG}
    mov edi, 1                      // SECCOMP_SET_MODE_FILTER
    mov esi, 8                      // SECCOMP_FILTER_FLAG_NEW_LISTENER
    mov eax, 317                    // seccomp
    syscall
    cmp eax, {FD_LISTENER}
    jne 9f
    mov edi, {FD_HAND_OVER}
    movabs rsi, {MSGHDR}
    xor edx, edx
    mov eax, 46                     // sendmsg
    syscall
    .globl vmspace_stub_sent
    .hidden vmspace_stub_sent
vmspace_stub_sent:
    xor edi, edi
    mov esi, 0xffffffff
    xor edx, edx
    mov eax, 436                    // close_range
    syscall
    .globl vmspace_stub_closed
    .hidden vmspace_stub_closed
vmspace_stub_closed:
    ud2

9:  mov edi, 1
    mov eax, 231                    // exit_group
    syscall
    ud2

    // ---- The mapper: changes what the address space shows. Its filter only serves to wait with; it never runs guest code, relies on
    // registers, on this page and on the orders' pages, which nobody in the address space can write, and gets no signals.
30: movabs rdx, {MAPPER_FPROG}
    mov edi, 1
    mov esi, 8
    mov eax, 317
    syscall
    cmp eax, {FD_LISTENER}
    jne 9b
    mov edi, {FD_HAND_OVER}
    movabs rsi, {MSGHDR}
    xor edx, edx
    mov eax, 46
    syscall
    mov edi, {FD_CONTROL}
    mov esi, 0xffffffff
    xor edx, edx
    mov eax, 436
    syscall
    xor eax, eax
    xor r13d, r13d
    // Report the last result and how many are left undone; the answer is how many to do now.
31: mov rdi, rax
    mov esi, r13d
    mov eax, {NR_DONE}
    syscall
    movabs r12, {ORDERS}
    mov r13d, eax
    xor eax, eax
    test r13d, r13d
    jz 31b
32: mov rax, [r12]
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rdx, [r12 + 24]
    mov r10, [r12 + 32]
    mov r8, [r12 + 40]
    mov r9, [r12 + 48]
    syscall
    cmp rax, -4096
    ja 31b
    add r12, {ORDER_LEN}
    dec r13d
    jnz 32b
    jmp 31b

    // ---- The handler of every signal that a runner gets. The host has saved all registers in the frame on the alternate stack; the owner
    // reads and changes them there. rdi: signal, rsi: siginfo_t, rdx: ucontext_t.
    .globl vmspace_stub_handler
    .hidden vmspace_stub_handler
vmspace_stub_handler:
    rdfsbase r10
    rdgsbase r8
    mov eax, {NR_TRAP}
    syscall
    .globl vmspace_stub_trapped
    .hidden vmspace_stub_trapped
vmspace_stub_trapped:
    // Go on with the guest: the frame holds FS and GS base in words that the host leaves alone.
    mov rax, [rdx + {UC_SPARE}]
    wrfsbase rax
    mov rax, [rdx + {UC_SPARE} + 8]
    wrgsbase rax
    mov rsp, rdx
    mov eax, 15                     // rt_sigreturn
    syscall
    .globl vmspace_stub_returned
    .hidden vmspace_stub_returned
vmspace_stub_returned:
    ud2

    // ---- The gate: what patched code jumps to in place of a system call. eax: number; rcx: address of the `syscall` instruction; r11 is free,
    // and so are the flags. It answers from the area, or hands the call to an owner who listens, or goes back to the instruction.
    // Where a kick may find it, and what becomes of the call then: `Runner::leave_gate`.
    .globl vmspace_stub_gate
    .hidden vmspace_stub_gate
vmspace_stub_gate:
    rdgsbase r11
    shr r11, 20
    cmp r11d, {STATE_TAG}
    jne 40f
    cmp eax, {LAST_ANSWER}
    ja 41f
    mov r11d, eax
    mov r11, gs:[r11 * 8 + {AREA_ANSWERS}]
    test r11, r11
    js 41f
    mov rax, r11
    .globl vmspace_stub_gate_known
    .hidden vmspace_stub_gate_known
vmspace_stub_gate_known:
    lea rcx, [rcx + 2]
40: jmp rcx

41: cmp dword ptr gs:[{LISTENING}], 0
    je 40b
    mov gs:[{NR}], rax
    mov gs:[{ARGS}], rdi
    mov gs:[{ARGS} + 8], rsi
    mov gs:[{ARGS} + 16], rdx
    mov gs:[{ARGS} + 24], r10
    mov gs:[{ARGS} + 32], r8
    mov gs:[{ARGS} + 40], r9
    mov gs:[{SITE}], rcx
    .globl vmspace_stub_gate_posted
    .hidden vmspace_stub_gate_posted
vmspace_stub_gate_posted:
    mov r11d, {POSTED}
    xchg gs:[{CALL_STATE}], r11d
    cmp dword ptr gs:[{LISTENING}], 0
    je 43f
    mov r11d, {PATIENCE}
42: cmp dword ptr gs:[{CALL_STATE}], {ANSWERED}
    je 47f
    pause
    dec r11d
    jnz 42b
43: mov eax, {POSTED}
    xor r11d, r11d
    lock cmpxchg gs:[{CALL_STATE}], r11d
    mov rax, gs:[{NR}]
    jne 44f
    jmp rcx
    // The owner has taken the call: wait for him, asleep in the end.
44: mov r11d, {PATIENCE}
45: cmp dword ptr gs:[{CALL_STATE}], {ANSWERED}
    je 47f
    pause
    dec r11d
    jnz 45b
    mov r11d, 1
    xchg gs:[{WAITING}], r11d
    cmp dword ptr gs:[{CALL_STATE}], {ANSWERED}
    je 46f
    mov eax, {NR_WAIT}
    syscall
    .globl vmspace_stub_gate_waited
    .hidden vmspace_stub_gate_waited
vmspace_stub_gate_waited:
    mov rcx, gs:[{SITE}]
46: mov dword ptr gs:[{WAITING}], 0
    cmp dword ptr gs:[{CALL_STATE}], {ANSWERED}
    jne 44b
47: mov rax, gs:[{RESULT}]
    mov dword ptr gs:[{CALL_STATE}], {NONE}
    .globl vmspace_stub_gate_answered
    .hidden vmspace_stub_gate_answered
vmspace_stub_gate_answered:
    lea rcx, [rcx + 2]
    jmp rcx
    .globl vmspace_stub_gate_end
    .hidden vmspace_stub_gate_end
vmspace_stub_gate_end:

    .globl vmspace_stub_end
    .hidden vmspace_stub_end
vmspace_stub_end:
    .popsection
    "#,
    TEXT = const layout::TEXT,
    ZYGOTE_PAGE = const layout::ZYGOTE_PAGE,
    STATE = const layout::STATE,
    STATE_LEN = const layout::STATE_LEN,
    ORDERS = const layout::ORDERS,
    ORDERS_LEN = const layout::ORDERS_LEN,
    ORDER_LEN = const layout::ORDER_LEN,
    AREA_SHIFT = const layout::AREA_SHIFT,
    AREA_STACK = const layout::AREA_STACK,
    AREA_STACK_T = const layout::AREA_STACK_T,
    STACK_LEN = const layout::AREA_LEN - layout::AREA_STACK,
    UC_SPARE = const layout::uc::SPARE,
    NR_TRAP = const nr::TRAP,
    NR_DONE = const nr::DONE,
    NR_WAIT = const nr::WAIT,
    STATE_TAG = const layout::STATE >> 20,
    LAST_ANSWER = const layout::ANSWERS - 1,
    AREA_ANSWERS = const layout::AREA_ANSWERS,
    LISTENING = const layout::AREA_CALL + call::LISTENING,
    CALL_STATE = const layout::AREA_CALL + call::STATE,
    WAITING = const layout::AREA_CALL + call::WAITING,
    NR = const layout::AREA_CALL + call::NR,
    ARGS = const layout::AREA_CALL + call::ARGS,
    SITE = const layout::AREA_CALL + call::SITE,
    RESULT = const layout::AREA_CALL + call::RESULT,
    NONE = const state::NONE,
    POSTED = const state::POSTED,
    ANSWERED = const state::ANSWERED,
    PATIENCE = const PATIENCE,
    RUNNER_FPROG = const layout::TEXT + data::RUNNER_FPROG,
    MAPPER_FPROG = const layout::TEXT + data::MAPPER_FPROG,
    MSGHDR = const layout::TEXT + data::MSGHDR,
    FD_PROGRAM = const fd::LISTENER,
    FD_CONTROL = const fd::CONTROL,
    FD_ORDERS = const fd::ORDERS,
    FD_HAND_OVER = const fd::HAND_OVER,
    FD_LISTENER = const fd::LISTENER,
);

/// Offsets of the constant data in the text page.
pub mod data {
    use crate::layout::TEXT_DATA;
    /// `struct sock_fprog` of the runners' filter.
    pub const RUNNER_FPROG: u64 = TEXT_DATA;
    /// `struct msghdr` with the listener.
    pub const MSGHDR: u64 = TEXT_DATA + 0x10;
    /// Its `struct iovec`.
    pub const IOVEC: u64 = TEXT_DATA + 0x50;
    /// Its control message.
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
}

unsafe extern "C" {
    static vmspace_stub_start: u8;
    static vmspace_stub_boot: u8;
    static vmspace_stub_sent: u8;
    static vmspace_stub_closed: u8;
    static vmspace_stub_handler: u8;
    static vmspace_stub_trapped: u8;
    static vmspace_stub_returned: u8;
    static vmspace_stub_gate: u8;
    static vmspace_stub_gate_known: u8;
    static vmspace_stub_gate_posted: u8;
    static vmspace_stub_gate_waited: u8;
    static vmspace_stub_gate_answered: u8;
    static vmspace_stub_gate_end: u8;
    static vmspace_stub_end: u8;
}

/// Addresses in the text page. Those of calls are what the host reports: the instruction behind `syscall`.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Signal handler.
    pub handler: u64,
    /// The call that reports a trap.
    pub trapped: u64,
    /// `rt_sigreturn`.
    pub returned: u64,
    /// The `sendmsg` of a new runner.
    pub sent: u64,
    /// The `close_range` of a new runner.
    pub closed: u64,
    /// The gate, and the instructions in it that matter to whoever finds a runner there.
    pub gate: u64,
    /// The result is in its register, the way back not in its.
    pub gate_known: u64,
    /// From here on the call is in the area.
    pub gate_posted: u64,
    /// The call by which a runner waits for an answer.
    pub gate_waited: u64,
    /// As `gate_known`, and the call is no longer in the area.
    pub gate_answered: u64,
    /// The gate's end.
    pub gate_end: u64,
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
            trapped: at(&raw const vmspace_stub_trapped),
            returned: at(&raw const vmspace_stub_returned),
            sent: at(&raw const vmspace_stub_sent),
            closed: at(&raw const vmspace_stub_closed),
            gate: at(&raw const vmspace_stub_gate),
            gate_known: at(&raw const vmspace_stub_gate_known),
            gate_posted: at(&raw const vmspace_stub_gate_posted),
            gate_waited: at(&raw const vmspace_stub_gate_waited),
            gate_answered: at(&raw const vmspace_stub_gate_answered),
            gate_end: at(&raw const vmspace_stub_gate_end),
        }
    }
}

/// Whether an address lies in the text page.
pub fn in_text(ip: u64) -> bool {
    (layout::TEXT..layout::TEXT + layout::TEXT_LEN).contains(&ip)
}

/// The text page: code, then constant data.
pub fn text_page() -> Vec<u8> {
    let len = offset(&raw const vmspace_stub_end) as usize;
    assert!(len <= layout::TEXT_DATA as usize, "the stub's code is too long for its page");
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
    // msghdr: no name, one iovec, one control message.
    put(data::MSGHDR, &[0, 0, layout::TEXT + data::IOVEC, 1, layout::TEXT + data::CMSG, 24, 0]);
    put(data::IOVEC, &[layout::TEXT, 1]);
    // cmsghdr: length, SOL_SOCKET and SCM_RIGHTS; the descriptor.
    put(data::CMSG, &[20, 1 | 1 << 32, fd::LISTENER as u64]);
    const FLAGS: u64 = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART) as u64 | 0x0400_0000;
    put(data::SIGACTION, &[addresses.handler, FLAGS, addresses.handler, !0]);
    put(data::RLIMIT, &[0, 0]);
    page
}

/// An ELF file with one page, loaded at [`layout::BOOT`], that starts the zygote. The page is at file offset 4096.
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
    for word in [1 | 5 << 32, 4096, layout::BOOT, layout::BOOT, 4096, 4096, 4096] {
        file.extend_from_slice(&u64::to_le_bytes(word));
    }
    file.resize(4096, 0);
    file.extend_from_slice(&text_page());
    file
}
