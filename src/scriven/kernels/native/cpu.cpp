// What this processor and its operating system can do. Portable in every library.
#include "common.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace scriven {
namespace {

#if defined(__x86_64__)

struct Leaf {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf leaf(unsigned number, unsigned part) {
    Leaf found;
    __get_cpuid_count(number, part, &found.eax, &found.ebx, &found.ecx, &found.edx);  // zeros where there is none
    return found;
}

constexpr bool bit(unsigned word, int number) { return (word >> number) & 1; }

// The registers that the operating system saves when it changes threads (XCR0).
unsigned saved_registers() {
    if (!bit(leaf(1, 0).ecx, 27)) return 0;  // OSXSAVE: without it xgetbv is no instruction
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Linux gives the 8 KB of tile registers only to a process that asks; asking again does no harm.
bool tiles_permitted() {
#if defined(__linux__)
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

// Documented in Intel's Software Developer's Manual, volume 2, CPUID; xcr0 bits in volume 1, 13.3.
int64_t features() {
    const Leaf one = leaf(1, 0), seven = leaf(7, 0), more = leaf(7, 1);
    const unsigned saved = saved_registers();
    const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6, tiles = (saved & 0x60000) == 0x60000;
    int64_t found = 0;
    if (ymm && bit(one.ecx, 12) && bit(seven.ebx, 5)) found |= has_avx2;
    if ((found & has_avx2) && bit(more.eax, 4)) found |= has_avx_vnni;
    if (zmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) && bit(seven.ebx, 31))
        found |= has_avx512;
    if ((found & has_avx512) && bit(seven.ecx, 11)) found |= has_avx512_vnni;
    if ((found & has_avx512) && bit(more.eax, 5)) found |= has_avx512_bf16;
    if (tiles && bit(seven.edx, 22) && bit(seven.edx, 24) && bit(seven.edx, 25) && tiles_permitted())
        found |= has_amx;
    return found;
}

#else

int64_t features() { return 0; }

#endif

// As scriven_cache says.
int64_t cache_bytes() {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return bytes > 0 ? bytes : 0;
#else
    return 0;
#endif
}

}  // namespace
}  // namespace scriven

// Which functions this library has, as a number; see interface.py. The build defines it.
SCRIVEN_API int64_t scriven_interface() { return SCRIVEN_INTERFACE; }

// The instruction sets that can run here, as bits of Feature. Asks for the use of AMX.
SCRIVEN_API int64_t scriven_features() { return scriven::features(); }

// The bytes of a core's second cache; 0 where the system does not tell.
SCRIVEN_API int64_t scriven_cache() { return scriven::cache_bytes(); }
