// The code that runs inside address spaces: the zygote, mothers, mappers, runners and their signal handler. The gate follows in
// gate.s. Nothing here uses a stack or memory that guest code could change to gain something: see the notes at each part.

// A label that the rest of the crate knows.
.macro at name
.globl \name
.hidden \name
\name:
.endm

.pushsection .rodata.vmspace_stub,"a",@progbits
.balign 64
at vmspace_stub_start

// ---- The zygote's first steps, at the boot address: map the text, the orders and the board, go on there.
at vmspace_stub_boot
    movabs rdi, {TEXT}
    mov esi, {TEXT_LEN}
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
    movabs rdi, {BOARD}
    mov esi, {BOARD_LEN}
    mov edx, 1                      // PROT_READ
    mov r10d, 0x11
    mov r8d, {FD_CONTROL}
    mov r9d, {BOARD_OFFSET}
    mov eax, 9
    syscall
    movabs rax, {TEXT}
    lea rcx, [rip + 2f]
    lea rdx, [rip + vmspace_stub_start]
    sub rcx, rdx
    add rax, rcx
    jmp rax

// ---- The zygote: waits for an order on its socket, does the calls that its page lists, answers.
2:   movabs rbx, {ZYGOTE_PAGE}
    mov edi, {FD_ORDERS}
    lea rsi, [rbx + 8]
    mov edx, 8
    xor eax, eax                    // read
    syscall
    cmp rax, 0
    jle 9f
    mov r12, [rbx + 16]             // number of calls
    lea r13, [rbx + 64]
3:   test r12, r12
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
4:   mov [r13 + 56], rax
    add r13, 64
    dec r12
    jmp 3b
5:   mov edi, {FD_ORDERS}
    lea rsi, [rbx + 8]
    mov edx, 8
    mov eax, 1                      // write
    syscall
    jmp 2b

// Number -2: make an address space. Argument 1: offset of its areas; argument 2: the owner's pid.
6:   mov r14, [r13 + 8]
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
// same memory she relies on registers, this page and the orders only. She makes the mapper and the first runner, and each time she is continued and told to the next.
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
    mov edi, 1                      // PR_SET_PDEATHSIG
    mov esi, 9
    mov eax, 157
    syscall
    mov eax, 110                    // getppid
    syscall
    cmp rax, r15
    jne 9f
    xor ebx, ebx
7:   mov edi, 0x8111                 // CLONE_VM | CLONE_PARENT | SIGCHLD
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
    cmp ebx, 1
    je 7b
40: mov eax, 39                     // getpid
    syscall
    mov edi, eax
    mov esi, 19                     // SIGSTOP
    mov eax, 62                     // kill
    syscall
    movabs rax, {ORDERS}
    cmp [rax + {ORDERS_TASKS}], ebx
    jbe 40b
    jmp 7b

// ---- A task beside her: dies with the owner's thread. The first is the mapper.
8:   mov edi, 1
    mov esi, 9
    mov eax, 157
    syscall
    mov eax, 110
    syscall
    cmp rax, r15
    jne 9f
    test ebx, ebx
    jz 30f

// ---- A runner: takes its area, its alternate stack, the byte that says how its calls trap, and its filter, hands the listener over, closes everything, and
// reports by a fault.
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
    mov edi, 59                     // PR_SET_SYSCALL_USER_DISPATCH
    mov esi, 1                      // PR_SYS_DISPATCH_ON
    movabs rdx, {TEXT}
    mov r10d, {TEXT_LEN}
    lea r8, [rbp + {LISTENING}]
    mov eax, 157                    // prctl
    syscall
    test eax, eax
    jnz 9f
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
at vmspace_stub_sent
    xor edi, edi
    mov esi, 0xffffffff
    xor edx, edx
    mov eax, 436                    // close_range
    syscall
at vmspace_stub_closed
    ud2

9:   mov edi, 1
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
    movabs rsi, {MAPPER_MSGHDR}
    xor edx, edx
    mov eax, 46
    syscall
    mov edi, {FD_ORDERS}
    mov esi, 0xffffffff
    xor edx, edx
    mov eax, 436
    syscall
    xor eax, eax
    xor r13d, r13d
    xor r15d, r15d
    movabs rbp, {ORDERS}
// Report the last result, how many are left undone, and of which batch.
31: mov rdi, rax
    mov esi, r13d
    mov rdx, r15
    mov eax, {NR_DONE}
    syscall
36: mov r15, [rbp + {ORDERS_SEQUENCE}]
    mov r13d, [rbp + {ORDERS_COUNT}]
    lea r12, [rbp + {ORDERS_HEADER}]
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
    mov ebx, [rbp + {ORDERS_STANDBY}]
    test ebx, ebx
    jz 31b
// Stand by: say what is done where nobody in the address space can, and look for more.
    mov edi, {FD_CONTROL}
    lea rsi, [rbp + {ORDERS_SEQUENCE}]
    mov edx, 8
    mov r10, [rbp + {ORDERS_STATUS}]
    mov eax, 18                     // pwrite64
    syscall
37: mov eax, {NR_YIELD}
    syscall
    cmp [rbp + {ORDERS_SEQUENCE}], r15
    jne 36b
    cmp dword ptr [rbp + {ORDERS_STANDBY}], 0
    je 38f
    dec ebx
    jnz 37b
38:
    xor eax, eax
    jmp 31b

// ---- The handler of every signal that a runner gets. The host has saved all registers in the frame on the alternate stack; the owner
// reads and changes them there. rdi: signal, rsi: siginfo_t, rdx: ucontext_t. To an owner who listens it reports through the area; but not the
// first time, when there is no GS base yet, because guest code of other runners can write there.
at vmspace_stub_handler
    rdfsbase r10
    rdgsbase r8
    test r8, r8
    jz 26f
    mov r9, rsp
    and r9, -{AREA_LEN}
    cmp dword ptr [r9 + {LISTENING}], {OTHER_CPU}
    jne 26f
    mov [r9 + {TRAP_ARGS}], rdi
    mov [r9 + {TRAP_ARGS} + 8], rsi
    mov [r9 + {TRAP_ARGS} + 16], rdx
    mov [r9 + {TRAP_ARGS} + 24], r10
    mov [r9 + {TRAP_ARGS} + 32], r8
    mov eax, {TRAP_POSTED}
    xchg [r9 + {TRAP}], eax
20: mov ecx, {PATIENCE}
21: cmp dword ptr [r9 + {TRAP}], {TRAP_ANSWERED}
    je 25f
    cmp dword ptr [r9 + {TRAP}], {TRAP_ASIDE}
    je 23f
    cmp dword ptr [r9 + {LISTENING}], {OTHER_CPU}
    jne 22f
    pause
    dec ecx
    jnz 21b
    // Nobody has taken the report: make it by a call. Or somebody has: sleep until he answers.
22: mov eax, {TRAP_POSTED}
    xor ecx, ecx
    lock cmpxchg [r9 + {TRAP}], ecx
    je 26f
    mov eax, {NR_WAIT}
    syscall
at vmspace_stub_rested
    cmp dword ptr [r9 + {TRAP}], {TRAP_ANSWERED}
    jne 20b
    jmp 25f
    // The owner wants the CPU for something else.
23: dec dword ptr [r9 + {YIELDS}]
    js 22b
    mov eax, {NR_YIELD}
    syscall
at vmspace_stub_yielded
    jmp 20b
25: mov dword ptr [r9 + {TRAP}], 0
    jmp vmspace_stub_trapped
26: mov eax, {NR_TRAP}
    syscall
at vmspace_stub_trapped
    // Go on with the guest: the frame holds FS and GS base in words that the host leaves alone.
    mov rax, [rdx + {UC_SPARE}]
    wrfsbase rax
    mov rax, [rdx + {UC_SPARE} + 8]
    wrgsbase rax
    mov rsp, rdx
    mov eax, 15                     // rt_sigreturn
    syscall
at vmspace_stub_returned
    ud2
