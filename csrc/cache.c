/* cache.c -- how much a processor keeps to itself. */
#include "core.h"

#include <stdatomic.h>

#if defined(FC_HAVE_AVX2) || defined(FC_HAVE_AVX512)
#include <cpuid.h>

static ptrdiff_t as_reported(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(0x80000006, &eax, &ebx, &ecx, &edx) ? (ptrdiff_t)(ecx >> 16) << 10 : 0;
}
#else
static ptrdiff_t as_reported(void) { return 0; }
#endif

static _Atomic(ptrdiff_t) l2;

void fc_l2_set(ptrdiff_t bytes) { atomic_store_explicit(&l2, bytes, memory_order_relaxed); }

ptrdiff_t fc_l2(void)
{
    ptrdiff_t bytes = atomic_load_explicit(&l2, memory_order_relaxed);
    if (bytes == 0) { /* asked once: virtual machines are slow to answer */
        bytes = as_reported();
        if (bytes == 0)
            bytes = (ptrdiff_t)1 << 20;
        fc_l2_set(bytes);
    }
    return bytes;
}
