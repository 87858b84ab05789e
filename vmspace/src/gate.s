// ---- The gate: what patched code jumps to in place of a system call. eax: number; rcx: address of the `syscall` instruction; r11 is free, and
// so are the arithmetic flags. The area's words say what becomes of a call: a constant answer, one that is found here, or the owner's.
// What whoever finds a runner in here has to do says `frame.rs`.
.macro arguments_and_site
    mov gs:[{ARGS}], rdi
    mov gs:[{ARGS} + 8], rsi
    mov gs:[{ARGS} + 16], rdx
    mov gs:[{ARGS} + 24], r10
    mov gs:[{ARGS} + 32], r8
    mov gs:[{ARGS} + 40], r9
    mov gs:[{SITE}], rcx
.endm
// All else that has to be known where the vDSO is called.
.macro all_for_clock
    arguments_and_site
    mov gs:[{NUMBER}], rax
    mov gs:[{CLOCK_SP}], rsp
    mov gs:[{KEPT}], rbp
    mov gs:[{KEPT} + 8], rbx
    mov gs:[{KEPT} + 16], r12
    mov gs:[{KEPT} + 24], r13
    mov gs:[{KEPT} + 32], r14
    mov gs:[{KEPT} + 40], r15
.endm
.macro arguments_back
    mov rdi, gs:[{ARGS}]
    mov rsi, gs:[{ARGS} + 8]
    mov rdx, gs:[{ARGS} + 16]
    mov r10, gs:[{ARGS} + 24]
    mov r8, gs:[{ARGS} + 32]
    mov r9, gs:[{ARGS} + 40]
    mov rcx, gs:[{SITE}]
.endm

at vmspace_stub_gate
    rdgsbase r11
    shr r11, 20
    cmp r11d, {STATE_TAG}
    jne 40f
    cmp eax, {LAST_ANSWER}
    ja 60f
    mov r11d, eax
    mov r11, gs:[r11 * 8 + {AREA_ANSWERS}]
    test r11, r11
    js 41f
    mov rax, r11
at vmspace_stub_gate_known
    lea rcx, [rcx + 2]
40: jmp rcx                         // somebody else's GS base: the instruction traps
41: cmp r11, {ANSWER_NONE}
    je 60f
    cmp r11, {ANSWER_CLOCK}
    je 50f
    cmp r11, {ANSWER_ACTIONS}
    je vmspace_stub_gate_action
    cmp r11, {ANSWER_SIGMASK}
    jne vmspace_stub_gate_files

    // rt_sigprocmask(how: edi, set: rsi, old: rdx, size: r10) on the mask in the area.
    cmp r10, 8
    jne 60f
    cmp edi, 2
    ja 60f
at vmspace_stub_gate_mask
    mov rax, gs:[{SIGMASK}]
    mov r11, rax
    test rsi, rsi
    jz 44f
    mov r11, [rsi]
    cmp edi, 1
    ja 43f                          // SIG_SETMASK
    je 42f
    or r11, rax                     // SIG_BLOCK
    jmp 43f
42: not r11                         // SIG_UNBLOCK
    and r11, rax
43: btr r11, 8                      // SIGKILL
    btr r11, 18                     // SIGSTOP
44: test rdx, rdx
    jz 45f
    mov [rdx], rax
45: mov gs:[{SIGMASK}], r11
at vmspace_stub_gate_masked
    xor eax, eax
    jmp vmspace_stub_gate_known

    // clock_gettime(clock: edi, time: rsi) of the clocks that the vDSO knows, called on a stack in the area.
50: cmp edi, 11
    ja 60f
    mov r11d, 0x8f3                 // REALTIME, MONOTONIC, MONOTONIC_RAW, the COARSE ones, BOOTTIME, TAI
    bt r11d, edi
    jnc 60f
    all_for_clock
    rdgsbase r11
    lea rsp, [r11 + {CLOCK_STACK_END}]
at vmspace_stub_gate_clock
    lea rsi, [r11 + {TIME}]
    call qword ptr gs:[{CLOCK}]
    mov rsp, gs:[{CLOCK_SP}]
    arguments_back
    mov r11d, eax
    mov eax, {NR_CLOCK}
at vmspace_stub_gate_clocked
    test r11d, r11d
    jnz 60f
    mov r11, gs:[{TIME}]
    mov [rsi], r11
    mov r11, gs:[{TIME} + 8]
    mov [rsi + 8], r11
    jmp vmspace_stub_gate_masked

    // rt_sigaction(signal: edi, new: rsi, old: rdx, size: r10) where the action is the default and stays it: asks, or sets it.
at vmspace_stub_gate_action
    cmp r10, 8
    jne 60f
    lea r11d, [rdi - 1]
    cmp r11d, 63
    ja 60f
    bt qword ptr gs:[{DEFAULTS}], r11
    jnc 60f
    test rsi, rsi
    jz 58f
    test rdx, rdx
    jnz 60f
    cmp qword ptr [rsi], 0          // SIG_DFL
    jne 60f
    cmp qword ptr [rsi + 8], {SA_RESTORER}
    jne 60f
    cmp qword ptr [rsi + 24], 0     // the mask
    jne 60f
    mov rax, [rsi + 16]
    cmp rax, gs:[{RESTORER}]
    mov eax, {NR_SIGACTION}
    jne 60f
    bts qword ptr gs:[{PLAIN}], r11
    jmp vmspace_stub_gate_masked
58: test rdx, rdx
    jz 60f
    bt qword ptr gs:[{PLAIN}], r11
    sbb r11, r11
    mov eax, r11d
    and eax, {SA_RESTORER}
    and r11, gs:[{RESTORER}]
    mov qword ptr [rdx], 0
    mov [rdx + 8], rax
    mov [rdx + 16], r11
    mov qword ptr [rdx + 24], 0
    jmp vmspace_stub_gate_masked
at vmspace_stub_gate_acted

at vmspace_stub_gate_files
    cmp r11, {ANSWER_NEWFSTATAT}
    je 71f
    cmp r11, {ANSWER_FSTAT}
    je 70f
    cmp r11, {ANSWER_VIEW}
    je 75f
    cmp r11, {ANSWER_HEAP}
    je 85f
    cmp r11, {ANSWER_MAPS}
    je 95f
    cmp r11, {ANSWER_CLOSE}
    jne 60f

    // close(descriptor: edi) of one that nobody will miss: the owner hears of it with whatever comes next.
    cmp edi, 63
    ja 60f
    mov r11d, edi
    bt qword ptr gs:[{CLOSABLE}], r11
    jnc 60f
    mov dword ptr gs:[{STAT_FD}], -1
    btr qword ptr gs:[{CLOSABLE}], r11
    bts qword ptr gs:[{CLOSED}], r11
at vmspace_stub_gate_closed
    jmp vmspace_stub_gate_masked

    // fstat(descriptor: edi, attributes: rsi)
70: mov r11, rsi
    jmp 72f
    // newfstatat(directory: edi, path: rsi, attributes: rdx, flags: r10) of a descriptor, with an empty path.
71: cmp r10d, {AT_EMPTY_PATH}
    jne 60f
    cmp byte ptr [rsi], 0
    jne 60f
    mov r11, rdx
72: cmp edi, 63
    ja 60f
    cmp edi, gs:[{STAT_FD}]
    jne 60f
    arguments_and_site
at vmspace_stub_gate_telling
    mov rcx, [rip + vmspace_stub_start + {BOARD_VERSION}]
    cmp rcx, gs:[{STAT_VERSION}]
    mov rcx, gs:[{SITE}]
    jne 60f
    mov rdi, r11
    rdgsbase rsi
    lea rsi, [rsi + {STAT}]
    mov ecx, {STAT_WORDS}
    rep movsq
    mov rdi, gs:[{ARGS}]
    mov rsi, gs:[{ARGS} + 8]
    mov rcx, gs:[{SITE}]
at vmspace_stub_gate_told
    jmp vmspace_stub_gate_masked

    // brk(end: rdi) that only asks, or has the heap grow into memory that lies ready behind it.
85: mov r11, [rip + vmspace_stub_start + {HEAP}]
    test r11, r11
    jz 60f
    cmp rdi, r11
    ja 87f
    je 86f
    test rdi, rdi
    jnz 60f
86: mov rax, r11
    jmp vmspace_stub_gate_known
87: cmp rdi, [rip + vmspace_stub_start + {HEAP} + {LIMIT}]
    ja 60f
    all_for_clock
    jmp 88f

    // mmap(address: rdi, length: rsi, rights: rdx, flags: r10, descriptor: r8, offset: r9) of new memory of one's own anywhere, if some lies ready.
95: cmp qword ptr [rip + vmspace_stub_start + {MAPS}], 0
    je 60f
    test rdi, rdi
    jnz 60f
    cmp rdx, {NEW_RIGHTS}
    jne 60f
    cmp r10, {NEW_FLAGS}
    jne 60f
    test r9, r9
    jnz 60f
    lea r11, [rsi - 1]
    cmp r11, {MOST_OPENED}
    jae 60f
    all_for_clock
    jmp 89f

    // pread64 and pwrite64(descriptor: edi, buffer: rsi, length: rdx, position: r10) of a file whose content is in the address space, as far as it goes without the owner. Where header
    // and content are is the guest's to write, like all of the area: whoever lies copies his own memory.
75: xor r11d, r11d
    cmp edi, gs:[{VIEWS}]
    je 76f
    mov r11d, {VIEW_LEN}
    cmp edi, gs:[{VIEWS} + {VIEW_LEN}]
    jne 60f
76: all_for_clock
    mov gs:[{VIEW}], r11
at vmspace_stub_gate_viewing
    mov rcx, [rip + vmspace_stub_start + {BOARD_VERSION}]
    cmp rcx, gs:[{VIEWS_VERSION}]
    jne vmspace_stub_gate_refused

    // When: of each write, and of the first read after it, as `relatime` has it (mount(8)).
    cmp eax, {NR_PWRITE}
    je 77f
    mov r8, gs:[r11 + {VIEWS} + 8]
    mov rcx, [r8 + {VIEW_READ}]
    xor eax, eax
    cmp rcx, [r8 + {VIEW_WRITTEN}]
    ja 78f
77: rdgsbase r11
    lea rsp, [r11 + {CLOCK_STACK_END}]
    lea rsi, [r11 + {TIME}]
    mov edi, {REALTIME_COARSE}
    call qword ptr gs:[{CLOCK}]
    mov rsp, gs:[{CLOCK_SP}]
    test eax, eax
    jnz vmspace_stub_gate_refused
    imul rax, gs:[{TIME}], 1000000000
    add rax, gs:[{TIME} + 8]

78: mov r11, gs:[{VIEW}]
    mov r8, gs:[r11 + {VIEWS} + 8]
    mov r9, gs:[r11 + {VIEWS} + 16]
    mov rcx, gs:[{ARGS} + 16]
    mov rdx, gs:[{ARGS} + 24]
    add r9, rdx
    add rdx, rcx
    jc vmspace_stub_gate_refused
    test rcx, rcx
    jz vmspace_stub_gate_refused
    cld
    cmp dword ptr gs:[{NUMBER}], {NR_PWRITE}
    je 80f
    mov r11d, [r8 + {VIEW_SIZE}]
    cmp rdx, r11
    ja vmspace_stub_gate_refused
    test rax, rax
    jz 79f
    mov [r8 + {VIEW_READ}], rax
    inc dword ptr [r8 + {VIEW_READS}]
79: mov rsi, r9
    mov rdi, gs:[{ARGS} + 8]
    rep movsb
    jmp vmspace_stub_gate_viewed
80: mov r11d, [r8 + {VIEW_CAPACITY}]
    cmp rdx, r11
    ja vmspace_stub_gate_refused
    mov [r8 + {VIEW_WRITTEN}], rax
    inc dword ptr [r8 + {VIEW_WRITES}]
    mov rsi, gs:[{ARGS} + 8]
    mov rdi, r9
    rep movsb
    cmp edx, [r8 + {VIEW_SIZE}]
    jbe vmspace_stub_gate_viewed
    mov [r8 + {VIEW_SIZE}], edx
    jmp vmspace_stub_gate_viewed

    // The pages that are taken are opened first, and filled as far as somebody is about to write there; then what lies ready begins behind them, if it still began in front of them. What is opened
    // and not lent harms nobody else: behind guards is only what this address space may write anyway.
88: mov r10, r11
    mov r8, rdi
    lea rsi, [r8 + 4095]
    and rsi, -4096
    lea rdi, [r10 + 4095]
    and rdi, -4096
    lea r9, [rip + vmspace_stub_start + {HEAP}]
    jmp 90f
89: lea r9, [rip + vmspace_stub_start + {MAPS}]
    mov r10, [r9]
    mov r8, r10
    sub r8, rsi
    jb vmspace_stub_gate_refused
    and r8, -4096
    cmp r8, [r9 + {LIMIT}]
    jb vmspace_stub_gate_refused
    mov rdi, r8
    mov rsi, r10
90: mov gs:[{TIME}], r8
    sub rsi, rdi
    jz 92f
    mov edx, {GUARD_REMOVE}
91: mov eax, {NR_MADVISE}
    syscall
at vmspace_stub_gate_opened
    cmp edx, {POPULATE_READ}
    je 92f
    test rax, rax
    jnz vmspace_stub_gate_refused
    mov edx, {POPULATE_READ}
    cmp rsi, {MOST_FILLED}
    jbe 91b
    mov esi, {MOST_FILLED}
    jmp 91b
92: mov rax, r10
    lock cmpxchg [r9], r8
at vmspace_stub_gate_taken
    jne vmspace_stub_gate_refused
    jmp vmspace_stub_gate_given
at vmspace_stub_gate_viewed
    arguments_back
    mov rax, rdx
    jmp vmspace_stub_gate_known
at vmspace_stub_gate_given
    arguments_back
    mov rax, gs:[{TIME}]
    jmp vmspace_stub_gate_known
at vmspace_stub_gate_refused
    arguments_back
    mov rax, gs:[{NUMBER}]
at vmspace_stub_gate_others

    // Every other call waits in the area for the owner.
60: arguments_and_site
at vmspace_stub_gate_posting
    mov dword ptr gs:[{SAVED}], 0
    mov dword ptr gs:[{TURNS}], 0
    mov gs:[{SP}], rsp
    mov ecx, gs:[{SEQUENCE}]
    add ecx, {STEP}
    mov gs:[{SEQUENCE}], ecx
    shl rcx, 32
    mov eax, eax
    or rcx, rax
    mov gs:[{CALL}], rcx
at vmspace_stub_gate_posted
    mov r11, gs:[{EAGER}]
    bt r11, rcx
    jnc 62f

    // All registers of the thread, as they are behind the call, but for its result: to the place that the owner has given it.
61: mov r11d, gs:[{PLACE}]
    mov gs:[r11 + {REGS}], r8
    mov gs:[r11 + {REGS} + 1 * 8], r9
    mov gs:[r11 + {REGS} + 2 * 8], r10
    mov qword ptr gs:[r11 + {REGS} + 3 * 8], {FLAGS}
    mov gs:[r11 + {REGS} + 4 * 8], r12
    mov gs:[r11 + {REGS} + 5 * 8], r13
    mov gs:[r11 + {REGS} + 6 * 8], r14
    mov gs:[r11 + {REGS} + 7 * 8], r15
    mov gs:[r11 + {REGS} + 8 * 8], rdi
    mov gs:[r11 + {REGS} + 9 * 8], rsi
    mov gs:[r11 + {REGS} + 10 * 8], rbp
    mov gs:[r11 + {REGS} + 11 * 8], rbx
    mov gs:[r11 + {REGS} + 12 * 8], rdx
    mov rcx, gs:[{SITE}]
    lea rcx, [rcx + 2]
    mov gs:[r11 + {REGS} + 14 * 8], rcx
    mov gs:[r11 + {REGS} + 15 * 8], rsp
    mov gs:[r11 + {REGS} + 16 * 8], rcx
    mov qword ptr gs:[r11 + {REGS} + 17 * 8], {FLAGS}
    rdfsbase rcx
    mov gs:[r11 + {REGS} + 18 * 8], rcx
    mov eax, gs:[{COMPONENTS}]
    mov edx, gs:[{COMPONENTS} + 4]
    xsaveopt64 gs:[r11]
    mov rdx, gs:[{ARGS} + 16]
    mov dword ptr gs:[{SAVED}], 1

    // Look for an order for this call while the owner listens, or give him the CPU where he takes turns, and then sleep. What has been saved is not saved
    // again.
62: mov r11d, {PATIENCE}
    mov ecx, gs:[{SEQUENCE}]
    add ecx, gs:[{SAVED}]
63: mov eax, gs:[{ORDER}]
    sub eax, ecx
    dec eax
    cmp eax, {ASIDE}
    jb 64f
    cmp dword ptr gs:[{LISTENING}], {OTHER_CPU}
    jne 66f
    pause
    dec r11d
    jnz 63b
65: mov eax, {NR_WAIT}
    syscall
at vmspace_stub_gate_waited
    jmp 62b
64: cmp byte ptr gs:[{ORDER}], {ANSWERED}
    jb 61b
    je 67f
    cmp byte ptr gs:[{ORDER}], {LOAD}
    je vmspace_stub_gate_load
    cmp byte ptr gs:[{ORDER}], {WITHDRAW}
    je 69f

    // Leave the CPU to another runner, again and again; the owner has said how often.
    cmp dword ptr gs:[{LISTENING}], 0
    je 65b
    dec dword ptr gs:[{YIELDS}]
    jns 68f
    jmp 65b
66: jb 65b
    mov eax, gs:[{TURNS}]
    inc dword ptr gs:[{TURNS}]
    cmp eax, gs:[{MOST_TURNS}]
    jae 65b
    test eax, eax
    jnz 68f
    rdtsc
    mov gs:[{LEFT}], eax
    mov rdx, gs:[{ARGS} + 16]
68: mov eax, {NR_YIELD}
    syscall
at vmspace_stub_gate_yielded
    jmp 62b

    // Take rights from memory as the call was to, or because it has freed it. A range that is not the owner's harms nobody else: the filter lets no right pass but that to read, and what
    // an address space shows at all its guest may read.
69: mov rdi, gs:[{WITHDRAWN}]
    mov rsi, gs:[{WITHDRAWN} + 8]
    mov edx, gs:[{WITHDRAWN} + 16]
    mov eax, {NR_MPROTECT}
    syscall
at vmspace_stub_gate_withdrawn
    mov rdi, gs:[{ARGS}]
    mov rsi, gs:[{ARGS} + 8]
    mov rdx, gs:[{ARGS} + 16]
67: mov rcx, gs:[{SITE}]
    mov rax, gs:[{RESULT}]
at vmspace_stub_gate_answered
    lea rcx, [rcx + 2]
    jmp rcx

    // Go on as the thread whose registers are in the place.
at vmspace_stub_gate_load
    mov r11d, gs:[{PLACE}]
    mov eax, gs:[{COMPONENTS}]
    mov edx, gs:[{COMPONENTS} + 4]
    xrstor64 gs:[r11]
    mov rax, gs:[r11 + {REGS} + 18 * 8]
    wrfsbase rax
    mov rax, gs:[r11 + {REGS} + 16 * 8]
    mov gs:[{CLOCK_SP}], rax
    rdgsbase rsp
    lea rsp, [rsp + r11 + {REGS} + 17 * 8]
    popfq
    mov r8, gs:[r11 + {REGS}]
    mov r9, gs:[r11 + {REGS} + 1 * 8]
    mov r10, gs:[r11 + {REGS} + 2 * 8]
    mov r12, gs:[r11 + {REGS} + 4 * 8]
    mov r13, gs:[r11 + {REGS} + 5 * 8]
    mov r14, gs:[r11 + {REGS} + 6 * 8]
    mov r15, gs:[r11 + {REGS} + 7 * 8]
    mov rdi, gs:[r11 + {REGS} + 8 * 8]
    mov rsi, gs:[r11 + {REGS} + 9 * 8]
    mov rbp, gs:[r11 + {REGS} + 10 * 8]
    mov rbx, gs:[r11 + {REGS} + 11 * 8]
    mov rdx, gs:[r11 + {REGS} + 12 * 8]
    mov rax, gs:[r11 + {REGS} + 13 * 8]
    mov rcx, gs:[r11 + {REGS} + 14 * 8]
    mov rsp, gs:[r11 + {REGS} + 15 * 8]
    mov r11, gs:[r11 + {REGS} + 3 * 8]
    jmp qword ptr gs:[{CLOCK_SP}]
at vmspace_stub_gate_end

at vmspace_stub_end
.popsection
.purgem at
.purgem arguments_and_site
.purgem all_for_clock
.purgem arguments_back
