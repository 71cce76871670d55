/* Lets a process find a processor without AVX-512, VNNI and AMX, so that 8-bit kernels add pairs of products in 16 bits.
 *
 * Loaded before everything else (LD_PRELOAD). Linux on x86-64 can make CPUID fault (arch_prctl ARCH_SET_CPUID, see
 * arch_prctl(2)); the handler runs the instruction itself, takes the features away from the answer, and goes on behind
 * it. Where the processor or the kernel cannot, it says so on stderr and ends the process with status 3.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

enum { FAULTS = 0, ANSWERS = 1, UNSUPPORTED = 3, FEATURES = 7 };

static long set_cpuid(unsigned long mode) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, mode); }

/* Leaf 7 lists the extensions: volume 2A of Intel's manual, CPUID. */
static void hide(uint32_t subleaf, uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d) {
    if (subleaf == 0) {
        *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)); /* AVX-512 F..VL */
        *c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                  /* VBMI, VNNI, ... */
        *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));               /* FP16, AMX */
    } else if (subleaf == 1) {
        *a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* AVX-VNNI, BF16 */
        *d &= ~(BIT(4) | BIT(5) | BIT(10));           /* AVX-VNNI-INT8 and -INT16 */
    }
}

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    (void)info;
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) { /* a fault of somebody else's */
        signal(number, SIG_DFL);
        return;
    }
    uint32_t leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX], a, b, c, d;
    set_cpuid(ANSWERS);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    set_cpuid(FAULTS);
    if (leaf == FEATURES) hide(subleaf, &a, &b, &c, &d);
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {0};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGSEGV, &action, NULL);
    if (set_cpuid(FAULTS) != 0) {
        fputs("CPUID cannot be made to fault here\n", stderr);
        _exit(UNSUPPORTED);
    }
}
