/* isa.c -- which instruction sets this CPU and its operating system have, and which one is in use. */
#include "core.h"

#include <stdatomic.h>

#if defined(FC_HAVE_AVX2) || defined(FC_HAVE_AVX512)
#include <cpuid.h>

/* By hand: the compilers' own __builtin_cpu_supports needs a runtime library that clang-cl does not link. */

enum { STATE_YMM = 0x06, STATE_ZMM = 0xe6 }; /* what the operating system saves of the vector registers */

static bool has(unsigned state, unsigned leaf7_ebx)
{
    unsigned eax, ebx, ecx, edx;
    const unsigned fma = 1u << 12, osxsave = 1u << 27;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & (fma | osxsave)) != (fma | osxsave))
        return false;
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & state) != state)
        return false;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & leaf7_ebx) == leaf7_ebx;
}

#ifdef FC_HAVE_AVX512
static bool has_avx512(void)
{ /* AVX2, AVX-512 F, DQ, BW, VL */
    return has(STATE_ZMM, 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31);
}
#endif
#ifdef FC_HAVE_AVX2
static bool has_avx2(void) { return has(STATE_YMM, 1u << 5); }
#endif
#endif

static bool always(void) { return true; }

static const struct {
    const fc_isa_table *table;
    bool (*supported)(void);
} built[] = {
/* Best first. FC_HAVE_... say what the build has compiled. */
#ifdef FC_HAVE_AVX512
    {&fc_isa_avx512, has_avx512},
#endif
#ifdef FC_HAVE_AVX2
    {&fc_isa_avx2, has_avx2},
#endif
#ifdef FC_HAVE_NEON
    {&fc_isa_neon, always}, /* every aarch64 has it */
#endif
    {&fc_isa_generic, always},
};

static const fc_isa_table *find(int index)
{
    for (size_t i = 0; i < sizeof built / sizeof *built; i++)
        if (built[i].supported() && index-- == 0)
            return built[i].table;
    return NULL;
}

static _Atomic(const fc_isa_table *) selected;

const fc_isa_table *fc_isa_current(void)
{
    const fc_isa_table *table = atomic_load_explicit(&selected, memory_order_acquire);
    if (table == NULL) {
        fc_isa_select(NULL);
        table = atomic_load_explicit(&selected, memory_order_acquire);
    }
    return table;
}

const char *fc_isa_available(int index)
{
    const fc_isa_table *table = index < 0 ? NULL : find(index);
    return table ? table->name : NULL;
}

const char *fc_isa(void) { return fc_isa_current()->name; }

fc_status fc_isa_select(const char *name)
{
    for (int i = 0;; i++) {
        const fc_isa_table *table = find(i);
        if (table == NULL)
            return FC_INVALID;
        if (name == NULL || *name == '\0' || strcmp(name, table->name) == 0) {
            atomic_store_explicit(&selected, table, memory_order_release);
            return FC_OK;
        }
    }
}

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define VERSION(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *fc_compiler(void)
{
#if defined(__clang__)
    return "Clang " VERSION(__clang_major__, __clang_minor__, __clang_patchlevel__);
#else
    return "GCC " VERSION(__GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}
