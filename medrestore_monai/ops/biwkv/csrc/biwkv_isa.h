/* Which instruction set of the kernel this machine has. The processor is asked directly: under some compilers, such as
   zig's, __builtin_cpu_supports answers 0 whatever the processor can do. */

enum { GENERIC, AVX2, AVX512, AVX512_BF16, AMX_BF16 };

#define HAS(bits, mask) (((bits) & (mask)) == (mask))

/* The widest set, from what cpuid and xgetbv return: ECX of leaf 1, EBX and EDX of leaf 7, EAX of its subleaf 1, and
   XCR0, the registers that the system saves for each thread. Exported for the tests. */
EXPORT int biwkv_widest_of(uint32_t ecx_1, uint32_t ebx_7, uint32_t edx_7, uint32_t eax_7_1, uint64_t xcr0) {
    const uint32_t fma = 1u << 12, avx = 1u << 28, avx2 = 1u << 5;
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    const uint32_t amx = 1u << 22 | 1u << 24; /* BF16, TILE */
    const uint64_t ymm = 0x06, zmm = 0xe6, tiles = 0x600e6;
    if (!HAS(ecx_1, fma | avx) || !HAS(ebx_7, avx2) || !HAS(xcr0, ymm)) return GENERIC;
    if (!HAS(ebx_7, avx512) || !HAS(xcr0, zmm)) return AVX2;
    if (!HAS(eax_7_1, 1u << 5)) return AVX512;
    return HAS(edx_7, amx) && HAS(xcr0, tiles) ? AMX_BF16 : AVX512_BF16;
}

#ifdef __x86_64__
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Whether the system lets this process use tiles; Linux has to be asked, as its signals need more room from then on.
   Exported for the tests. */
EXPORT int biwkv_may_use_tiles(void) {
#if TILES_COMPILE
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM, XTILEDATA */
#else
    return 0;
#endif
}

EXPORT int biwkv_widest(void) {
    uint32_t eax, ebx, ecx, edx, ebx_7, ecx_7, edx_7, eax_7_1 = 0, unused, low, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !HAS(ecx, 1u << 27)) return GENERIC; /* OSXSAVE: xgetbv is there */
    if (!__get_cpuid_count(7, 0, &eax, &ebx_7, &ecx_7, &edx_7)) return GENERIC;
    if (eax >= 1) __cpuid_count(7, 1, eax_7_1, unused, unused, unused); /* EAX of leaf 7: its last subleaf */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    const int widest = biwkv_widest_of(ecx, ebx_7, edx_7, eax_7_1, (uint64_t)high << 32 | low);
    return widest == AMX_BF16 && !biwkv_may_use_tiles() ? AVX512_BF16 : widest;
}
#else
EXPORT int biwkv_widest(void) { return GENERIC; }
#endif
