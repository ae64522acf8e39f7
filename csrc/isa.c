/* isa.c -- which instruction sets this CPU and its operating system have, and which one is in use. */
#include "core.h"

#include <stdatomic.h>

#if defined(FC_HAVE_AVX2) || defined(FC_HAVE_AVX512)
#include <cpuid.h>

/* By hand: the compilers' own __builtin_cpu_supports needs a runtime library that clang-cl does not link. */

enum { FC_STATE_YMM = 0x06, FC_STATE_ZMM = 0xe6 }; /* what the operating system saves of the vector registers */

static bool fc_has(unsigned state, unsigned leaf7_ebx) {
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
static bool fc_has_avx512(void) { /* AVX2, AVX-512 F, DQ, BW, VL */
    return fc_has(FC_STATE_ZMM, 1u << 5 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31);
}
#endif
#ifdef FC_HAVE_AVX2
static bool fc_has_avx2(void) { return fc_has(FC_STATE_YMM, 1u << 5); }
#endif
#endif

static bool fc_always(void) { return true; }

static const struct {
    const fc_isa_table *table;
    bool (*supported)(void);
} fc_built[] = {
/* Best first. FC_HAVE_... say what the build has compiled. */
#ifdef FC_HAVE_AVX512
    {&fc_isa_avx512, fc_has_avx512},
#endif
#ifdef FC_HAVE_AVX2
    {&fc_isa_avx2, fc_has_avx2},
#endif
#ifdef FC_HAVE_NEON
    {&fc_isa_neon, fc_always}, /* every aarch64 has it */
#endif
    {&fc_isa_generic, fc_always},
};

static const fc_isa_table *fc_isa_find(int index) {
    for (size_t i = 0; i < sizeof fc_built / sizeof *fc_built; i++)
        if (fc_built[i].supported() && index-- == 0)
            return fc_built[i].table;
    return NULL;
}

static _Atomic(const fc_isa_table *) fc_selected;

const fc_isa_table *fc_isa_current(void) {
    const fc_isa_table *table = atomic_load_explicit(&fc_selected, memory_order_acquire);
    if (table == NULL) {
        fc_isa_select(NULL);
        table = atomic_load_explicit(&fc_selected, memory_order_acquire);
    }
    return table;
}

const char *fc_isa_available(int index) {
    const fc_isa_table *table = index < 0 ? NULL : fc_isa_find(index);
    return table ? table->name : NULL;
}

const char *fc_isa(void) { return fc_isa_current()->name; }

fc_status fc_isa_select(const char *name) {
    for (int i = 0;; i++) {
        const fc_isa_table *table = fc_isa_find(i);
        if (table == NULL)
            return FC_INVALID;
        if (name == NULL || *name == '\0' || strcmp(name, table->name) == 0) {
            atomic_store_explicit(&fc_selected, table, memory_order_release);
            return FC_OK;
        }
    }
}

#define FC_TEXT_(x) #x
#define FC_TEXT(x) FC_TEXT_(x)
#define FC_VERSION(major, minor, patch) FC_TEXT(major) "." FC_TEXT(minor) "." FC_TEXT(patch)

const char *fc_compiler(void) {
#if defined(__clang__)
    return "Clang " FC_VERSION(__clang_major__, __clang_minor__, __clang_patchlevel__);
#else
    return "GCC " FC_VERSION(__GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
}
