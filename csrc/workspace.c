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

#define IDLE_BLOCKS 16
#define IDLE_PER_THREAD ((size_t)64 << 20) /* bytes: idle blocks may hold what one call at the usual limit takes */
#define SMALLEST ((size_t)64 << 10)
#define HUGE_PAGE ((size_t)2 << 20)

/* What stands in front of the memory handed out, FC_ALIGNMENT bytes in all. */
typedef struct header {
    size_t bytes; /* usable */
} header;

static_assert(sizeof(header) <= FC_ALIGNMENT, "the header fits in front of the block");

static header *idle[IDLE_BLOCKS]; /* the oldest first */
static int idle_count;
static size_t idle_bytes;
static atomic_flag lock = ATOMIC_FLAG_INIT; /* held for a walk over idle, never while memory is got or freed */

static void take_lock(void)
{
    for (int spins = 0; atomic_flag_test_and_set_explicit(&lock, memory_order_acquire); spins++)
        if (spins > 64)
#ifdef _WIN32
            SwitchToThread();
#else
            sched_yield();
#endif
}

static void drop_lock(void) { atomic_flag_clear_explicit(&lock, memory_order_release); }

#ifndef _WIN32
/* A child made while another thread holds the lock would wait for it for ever. */
__attribute__((constructor)) static void on_load(void) { pthread_atfork(take_lock, drop_lock, drop_lock); }
#endif

static header *new_block(size_t bytes)
{
    if (bytes > PTRDIFF_MAX - HUGE_PAGE - FC_ALIGNMENT)
        return NULL;
    size_t alignment = FC_ALIGNMENT, total = bytes + FC_ALIGNMENT;
    if (total >= HUGE_PAGE) { /* whole huge pages, so that the system can back it by them */
        alignment = HUGE_PAGE;
        total = (total + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    } else if (total < SMALLEST) {
        total = SMALLEST;
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
    if (alignment == HUGE_PAGE)
        (void)madvise(memory, total, MADV_HUGEPAGE); /* a wish: fewer page faults and TLB misses */
#endif
    header *block = memory;
    block->bytes = total - FC_ALIGNMENT;
    return block;
}

static void free_block(header *block)
{
#ifdef _WIN32
    _aligned_free(block);
#else
    free(block);
#endif
}

/* With the lock held. */
static header *take_idle(int index)
{
    header *block = idle[index];
    memmove(&idle[index], &idle[index + 1], (size_t)(--idle_count - index) * sizeof *idle);
    idle_bytes -= block->bytes;
    return block;
}

void *fc_workspace_acquire(size_t bytes)
{
    header *block = NULL;
    take_lock();
    int best = -1; /* the smallest that is large enough, of these the last used: its lines may still be in cache */
    for (int i = 0; i < idle_count; i++)
        if (idle[i]->bytes >= bytes && (best < 0 || idle[i]->bytes <= idle[best]->bytes))
            best = i;
    header *outgrown = NULL; /* the largest there is, and yet too small: what is allocated now takes its place */
    if (best >= 0) {
        block = take_idle(best);
    } else if (idle_count > 0) {
        int largest = 0;
        for (int i = 1; i < idle_count; i++)
            if (idle[i]->bytes > idle[largest]->bytes)
                largest = i;
        outgrown = take_idle(largest);
    }
    drop_lock();
    if (outgrown != NULL)
        free_block(outgrown);
    if (block == NULL)
        block = new_block(bytes);
    if (block == NULL) { /* idle ones may be what is in the way */
        fc_workspace_trim();
        block = new_block(bytes);
    }
    return block ? (char *)block + FC_ALIGNMENT : NULL;
}

void fc_workspace_release(void *workspace)
{
    if (workspace == NULL)
        return;
    header *block = (header *)((char *)workspace - FC_ALIGNMENT);
    const size_t limit = (size_t)fc_max(fc_default_threads(), 4) * IDLE_PER_THREAD;
    if (block->bytes > limit) {
        free_block(block);
        return;
    }
    header *excess[IDLE_BLOCKS];
    int count = 0;
    take_lock();
    while (idle_count == IDLE_BLOCKS || (idle_count > 0 && idle_bytes + block->bytes > limit))
        excess[count++] = take_idle(0);
    idle[idle_count++] = block;
    idle_bytes += block->bytes;
    drop_lock();
    while (count > 0)
        free_block(excess[--count]);
}

void fc_workspace_trim(void)
{
    header *blocks[IDLE_BLOCKS];
    int count = 0;
    take_lock();
    while (idle_count > 0)
        blocks[count++] = take_idle(0);
    drop_lock();
    while (count > 0)
        free_block(blocks[--count]);
}
