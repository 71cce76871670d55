/* Answers each CPUID that became an undefined instruction, without AVX-512, VNNI and AMX; see avx2.py. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#define BIT(n) (1u << (n))

static const unsigned char UNDEFINED[2] = {0x0f, 0x0b}; /* ud2, as long as cpuid */

/* Bits by leaf and register: Intel SDM volume 2, CPUID, table 3-8. */
static const uint32_t AVX512_EBX = BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31);
static const uint32_t AVX512_ECX = BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14);
static const uint32_t AVX512_AMX_EDX = BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25);
static const uint32_t VNNI_AMX_EAX = BIT(4) | BIT(5) | BIT(21) | BIT(23); /* leaf 7, subleaf 1 */
static const uint32_t VNNI_EDX = BIT(4) | BIT(5) | BIT(10);

static struct sigaction before;

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (memcmp((void *)registers[REG_RIP], UNDEFINED, sizeof UNDEFINED) != 0) {
        sigaction(SIGILL, &before, NULL);
        return;
    }
    uint32_t a, b, c, d, leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX];
    __cpuid_count(leaf, subleaf, a, b, c, d);
    if (leaf == 7 && subleaf == 0) {
        b &= ~AVX512_EBX;
        c &= ~AVX512_ECX;
        d &= ~AVX512_AMX_EDX;
    }
    if (leaf == 7 && subleaf == 1) {
        a &= ~VNNI_AMX_EAX;
        d &= ~VNNI_EDX;
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += sizeof UNDEFINED;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action = {0};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGILL, &action, &before);
}
