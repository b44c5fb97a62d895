// The interface of this library, and the abilities of this processor and its system. Portable in every library.
#include <cstddef>
#include <type_traits>

#include "calls.h"
#include "common.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
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
    __get_cpuid_count(number, part, &found.eax, &found.ebx, &found.ecx, &found.edx);  // zeros if there is no such leaf
    return found;
}

constexpr bool bit(unsigned word, int number) { return (word >> number) & 1; }

// The registers that the operating system saves when it changes threads (XCR0).
unsigned saved_registers() {
    if (!bit(leaf(1, 0).ecx, 27)) return 0;  // OSXSAVE: without it there is no xgetbv
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

// Linux gives the 8 KB of tile registers only to a process that asks for them. Asking again does no harm.
[[maybe_unused]] bool tiles_permitted() {
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
    const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;
    [[maybe_unused]] const bool tiles = (saved & 0x60000) == 0x60000;
    int64_t found = 0;
    if (ymm && bit(one.ecx, 12) && bit(seven.ebx, 5)) found |= has_avx2;
    if ((found & has_avx2) && bit(more.eax, 4)) found |= has_avx_vnni;
    if (zmm && bit(seven.ebx, 16) && bit(seven.ebx, 17) && bit(seven.ebx, 30) && bit(seven.ebx, 31))
        found |= has_avx512;
    if ((found & has_avx512) && bit(seven.ecx, 11)) found |= has_avx512_vnni;
    if ((found & has_avx512) && bit(more.eax, 5)) found |= has_avx512_bf16;
#if defined(SCRIVEN_EMULATE_TILES)
    if (found & has_avx512_bf16) found |= has_amx;
#else
    if (tiles && bit(seven.edx, 22) && bit(seven.edx, 24) && bit(seven.edx, 25) && tiles_permitted())
        found |= has_amx;
#endif
    return found;
}

#elif defined(__linux__) && defined(__aarch64__)

// Documented in Linux' arch/arm64/elf_hwcaps.rst; the bits are in asm/hwcap.h, which may be older than BF16.
int64_t features() {
    constexpr unsigned long dot_product = 1ul << 20, bf16 = 1ul << 14;  // HWCAP_ASIMDDP, HWCAP2_BF16
    int64_t found = 0;
    if (getauxval(AT_HWCAP) & dot_product) found |= has_neon_dot;
    if (getauxval(AT_HWCAP2) & bf16) found |= has_neon_bf16;
    return found;
}

#elif defined(__APPLE__) && defined(__aarch64__)

bool says_yes(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(name, &value, &size, nullptr, 0) && value;
}

int64_t features() {
    int64_t found = 0;
    if (says_yes("hw.optional.arm.FEAT_DotProd")) found |= has_neon_dot;
    if (says_yes("hw.optional.arm.FEAT_BF16")) found |= has_neon_bf16;
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

struct Size {
    const char *name;
    int64_t bytes;
};

template <class Struct> constexpr Size size_of(const char *name) {
    static_assert(std::is_standard_layout<Struct>::value && std::is_trivial<Struct>::value, "Python can lay it out");
    return {name, sizeof(Struct)};
}

#define SCRIVEN_SIZE(type) size_of<type>(#type)
constexpr Size sizes[] = {
    SCRIVEN_SIZE(PackedMatrix),        SCRIVEN_SIZE(PackedLayer),
    SCRIVEN_SIZE(SuffixBlock),         SCRIVEN_SIZE(SuffixIndex),
    SCRIVEN_SIZE(SuffixSort),          SCRIVEN_SIZE(SuffixMatch),
    SCRIVEN_SIZE(SuffixFollow),
    SCRIVEN_SIZE(PackedModel),         SCRIVEN_SIZE(Drawing),
    SCRIVEN_SIZE(RowRule),             SCRIVEN_SIZE(RowPast),
    SCRIVEN_SIZE(SamplerWrite),        SCRIVEN_SIZE(ScorerRead),
    SCRIVEN_SIZE(TextTranslate),       SCRIVEN_SIZE(TextLearn),
    SCRIVEN_SIZE(RecurrentForward),    SCRIVEN_SIZE(RecurrentBackward),
    SCRIVEN_SIZE(ScanForward),
    SCRIVEN_SIZE(ScanBackward),        SCRIVEN_SIZE(WeightGradient),
    SCRIVEN_SIZE(Projection),          SCRIVEN_SIZE(CrossEntropyForward),
    SCRIVEN_SIZE(CrossEntropyBackward), SCRIVEN_SIZE(SumSquares),
    SCRIVEN_SIZE(AdamwStep),           SCRIVEN_SIZE(MuonUpdate),
    SCRIVEN_SIZE(MuonApply),           SCRIVEN_SIZE(CountsTable),
    SCRIVEN_SIZE(CountsOpen),          SCRIVEN_SIZE(CountsAdd),
    SCRIVEN_SIZE(CountsFinish),        SCRIVEN_SIZE(CountsScore),
    SCRIVEN_SIZE(CountsDistribution),  SCRIVEN_SIZE(CountsMix),
    SCRIVEN_SIZE(ContextMixingOpen),   SCRIVEN_SIZE(ContextMixingRead),
    SCRIVEN_SIZE(ContextMixingObserve), SCRIVEN_SIZE(ContextMixingDistribution),
    SCRIVEN_SIZE(ContextMixingEncode), SCRIVEN_SIZE(ContextMixingDecode),
    SCRIVEN_SIZE(CountsPartner),
};

}  // namespace
}  // namespace scriven

// The bytes of a struct in calls.h; 0 if there is none of that name. Python's must be as large.
SCRIVEN_API int64_t scriven_struct_size(const char *name) {
    for (const scriven::Size &size : scriven::sizes)
        if (!std::strcmp(size.name, name)) return size.bytes;
    return 0;
}

// A number for the functions of this library; see interface.py. The build defines it.
SCRIVEN_API int64_t scriven_interface() { return SCRIVEN_INTERFACE; }

// The instruction sets that can run here, as bits of Feature. Asks the system for the use of AMX.
SCRIVEN_API int64_t scriven_features() { return scriven::features(); }

// The bytes of a core's second-level cache; 0 if the system does not say.
SCRIVEN_API int64_t scriven_cache() { return scriven::cache_bytes(); }
