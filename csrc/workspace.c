/* workspace.c -- keeps workspaces between calls: the pages of a fresh one cost more than many a convolution. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* madvise */
#endif
#include "core.h"

#include <stdatomic.h>
#include <stdlib.h>

#ifdef _WIN32
#include <malloc.h>
#include <windows.h>
#else
#include <pthread.h>
#include <sched.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#define FC_IDLE_BLOCKS 16
#define FC_IDLE_PER_THREAD ((size_t)64 << 20) /* bytes: idle blocks may hold what one call at the usual limit takes */
#define FC_SMALLEST ((size_t)64 << 10)
#define FC_HUGE_PAGE ((size_t)2 << 20)

/* What stands in front of the memory handed out, FC_ALIGNMENT bytes in all. */
typedef struct fc_block {
    size_t bytes; /* usable */
} fc_block;

static_assert(sizeof(fc_block) <= FC_ALIGNMENT, "the header fits in front of the block");

static fc_block *fc_idle[FC_IDLE_BLOCKS]; /* the oldest first */
static int fc_idle_count;
static size_t fc_idle_bytes;
static atomic_flag fc_lock = ATOMIC_FLAG_INIT; /* held for a walk over fc_idle, never while memory is got or freed */

static void fc_lock_acquire(void) {
    for (int spins = 0; atomic_flag_test_and_set_explicit(&fc_lock, memory_order_acquire); spins++)
        if (spins > 64)
#ifdef _WIN32
            SwitchToThread();
#else
            sched_yield();
#endif
}

static void fc_lock_release(void) { atomic_flag_clear_explicit(&fc_lock, memory_order_release); }

#ifndef _WIN32
/* A child made while another thread holds the lock would wait for it for ever. */
__attribute__((constructor)) static void fc_on_load(void) {
    pthread_atfork(fc_lock_acquire, fc_lock_release, fc_lock_release);
}
#endif

static fc_block *fc_block_new(size_t bytes) {
    if (bytes > PTRDIFF_MAX - FC_HUGE_PAGE - FC_ALIGNMENT)
        return NULL;
    size_t alignment = FC_ALIGNMENT, total = bytes + FC_ALIGNMENT;
    if (total >= FC_HUGE_PAGE) { /* whole huge pages, so that the system can back it by them */
        alignment = FC_HUGE_PAGE;
        total = (total + FC_HUGE_PAGE - 1) / FC_HUGE_PAGE * FC_HUGE_PAGE;
    } else if (total < FC_SMALLEST) {
        total = FC_SMALLEST;
    }
    void *memory;
#ifdef _WIN32
    memory = _aligned_malloc(total, alignment);
    if (memory == NULL)
        return NULL;
#else
    if (posix_memalign(&memory, alignment, total) != 0)
        return NULL;
#endif
#ifdef MADV_HUGEPAGE
    if (alignment == FC_HUGE_PAGE)
        (void)madvise(memory, total, MADV_HUGEPAGE); /* a wish: fewer page faults and TLB misses */
#endif
    fc_block *block = memory;
    block->bytes = total - FC_ALIGNMENT;
    return block;
}

static void fc_block_free(fc_block *block) {
#ifdef _WIN32
    _aligned_free(block);
#else
    free(block);
#endif
}

/* With the lock held. */
static fc_block *fc_idle_take(int index) {
    fc_block *block = fc_idle[index];
    memmove(&fc_idle[index], &fc_idle[index + 1], (size_t)(--fc_idle_count - index) * sizeof *fc_idle);
    fc_idle_bytes -= block->bytes;
    return block;
}

void *fc_workspace_acquire(size_t bytes) {
    fc_block *block = NULL;
    fc_lock_acquire();
    int best = -1; /* the smallest that is large enough, of these the last used: its lines may still be in cache */
    for (int i = 0; i < fc_idle_count; i++)
        if (fc_idle[i]->bytes >= bytes && (best < 0 || fc_idle[i]->bytes <= fc_idle[best]->bytes))
            best = i;
    if (best >= 0)
        block = fc_idle_take(best);
    fc_lock_release();
    if (block == NULL)
        block = fc_block_new(bytes);
    if (block == NULL) { /* idle ones may be what is in the way */
        fc_workspace_trim();
        block = fc_block_new(bytes);
    }
    return block ? (char *)block + FC_ALIGNMENT : NULL;
}

void fc_workspace_release(void *workspace) {
    if (workspace == NULL)
        return;
    fc_block *block = (fc_block *)((char *)workspace - FC_ALIGNMENT);
    const size_t limit = (size_t)fc_max(fc_default_threads(), 4) * FC_IDLE_PER_THREAD;
    if (block->bytes > limit) {
        fc_block_free(block);
        return;
    }
    fc_block *excess[FC_IDLE_BLOCKS];
    int count = 0;
    fc_lock_acquire();
    while (fc_idle_count == FC_IDLE_BLOCKS || (fc_idle_count > 0 && fc_idle_bytes + block->bytes > limit))
        excess[count++] = fc_idle_take(0);
    fc_idle[fc_idle_count++] = block;
    fc_idle_bytes += block->bytes;
    fc_lock_release();
    while (count > 0)
        fc_block_free(excess[--count]);
}

void fc_workspace_trim(void) {
    fc_block *blocks[FC_IDLE_BLOCKS];
    int count = 0;
    fc_lock_acquire();
    while (fc_idle_count > 0)
        blocks[count++] = fc_idle_take(0);
    fc_lock_release();
    while (count > 0)
        fc_block_free(blocks[--count]);
}
