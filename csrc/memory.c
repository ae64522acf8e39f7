/* memory.c -- results and workspaces, of memory that is kept when it is released: fresh pages cost more than many a
 * convolution.
 *
 * One range of addresses is reserved, as large as the machine's memory, and asked to be backed by huge pages. Blocks lie
 * in it close together, each in the first gap that holds it, so that the same pages serve a network's large results
 * and its small ones. Pages that no block lies in are given back, the highest first, as soon as there are more than have
 * been in use at a time in the last PERIOD to two: the process grows no larger than it would if nothing were kept. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* madvise, MAP_ANONYMOUS */
#endif
#include "core.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#ifdef _WIN32
#include <malloc.h>
#include <windows.h>
#else
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif
#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif
#endif

#ifndef __has_feature
#define __has_feature(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define AFTER ((size_t)256) /* bytes behind a block that nobody may touch */
#define FORBID ASAN_POISON_MEMORY_REGION
#define ALLOW ASAN_UNPOISON_MEMORY_REGION
#else
#define AFTER ((size_t)0)
#define FORBID(start, bytes) ((void)(start), (void)(bytes))
#define ALLOW FORBID
#endif

#define PERIOD 10 /* seconds */
#define PAGE ((size_t)2 << 20)
#define SPARE_PAGES 2 /* that may be kept besides: blocks begin and end within pages */
/* Processors compare but the last 12 bits of the addresses of a load and of the stores before it: a result that began a line or two further
 * on than what it is computed from would make each load wait for a store. So blocks take an odd number of STEPs. */
#define STEP ((size_t)1 << 10)
#define USUAL_LEAST ((size_t)4 << 10) /* bytes of a block; the list of gaps has room for as many as there can be */

/* What stands in front of the memory handed out, FC_ALIGNMENT bytes in all. */
typedef struct header {
    size_t bytes; /* with this */
    void *own;    /* what malloc gave, of a block that did not fit; else NULL */
} header;

static_assert(sizeof(header) <= FC_ALIGNMENT, "the header fits in front of the block");

typedef struct gap {
    char *start;
    size_t bytes;
} gap;

static struct {
    bool tried;
    char *base; /* of PAGE; NULL if there is none */
    gap *gaps;  /* by address */
    size_t count, most_gaps;
    unsigned char *touched;         /* of each page: whether it may take up memory */
    size_t resident, top;           /* pages touched; one more than the highest of them */
    size_t live, peak, peak_before; /* bytes in use, and the most of it in this period and in the last */
    time_t period_start;
} arena;

static atomic_flag lock = ATOMIC_FLAG_INIT;

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

/* ---- what the system does ------------------------------------------------------------------------------------- */

#ifdef _WIN32

static size_t machine_memory(void)
{
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    return GlobalMemoryStatusEx(&status) ? (size_t)status.ullTotalPhys : 0;
}

static void *reserve(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE, PAGE_READWRITE); }
static void unreserve(void *start, size_t bytes) { (void)bytes, VirtualFree(start, 0, MEM_RELEASE); }
static bool provide(void *start, size_t bytes)
{
    return VirtualAlloc(start, bytes, MEM_COMMIT, PAGE_READWRITE) != NULL;
}
static void give_back(void *start, size_t bytes) { (void)VirtualFree(start, bytes, MEM_DECOMMIT); }
static void *own_memory(size_t bytes) { return _aligned_malloc(bytes, FC_ALIGNMENT); }
static void free_own(void *memory) { _aligned_free(memory); }

#else

static size_t machine_memory(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY)
        return 0; /* addresses are not to be had for nothing */
    const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (size_t)pages * (size_t)size : 0;
}

static void *reserve(size_t bytes)
{
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

static void unreserve(void *start, size_t bytes) { munmap(start, bytes); }
static bool provide(void *start, size_t bytes) { return (void)start, (void)bytes, true; }

static void give_back(void *start, size_t bytes)
{
#ifdef __linux__
    madvise(start, bytes, MADV_DONTNEED);
#else
    madvise(start, bytes, MADV_FREE);
#endif
}

static void *own_memory(size_t bytes)
{
    void *memory;
    return posix_memalign(&memory, FC_ALIGNMENT, bytes) == 0 ? memory : NULL;
}

static void free_own(void *memory) { free(memory); }

#endif

/* ---- with the lock held ------------------------------------------------------------------------------------------ */

/* Reserves the range, once. Where it cannot be had, malloc serves. */
static void set_up(void)
{
    arena.tried = true;
    const size_t pages = machine_memory() / PAGE, bytes = pages * PAGE;
    if (sizeof(void *) < 8 || pages == 0)
        return;
    const size_t most_gaps = bytes / USUAL_LEAST, tables = most_gaps * sizeof(gap) + pages;
    char *range = reserve(bytes + PAGE);
    void *table = reserve(tables);
    if (range == NULL || table == NULL || !provide(table, tables)) {
        if (range != NULL)
            unreserve(range, bytes + PAGE);
        if (table != NULL)
            unreserve(table, tables);
        return;
    }
    arena.base = (char *)(((uintptr_t)range + PAGE - 1) / PAGE * PAGE);
#ifdef MADV_HUGEPAGE
    (void)madvise(arena.base, bytes, MADV_HUGEPAGE); /* a wish: fewer page faults and TLB misses */
#endif
    arena.gaps = table;
    arena.most_gaps = most_gaps;
    arena.touched = (unsigned char *)(arena.gaps + most_gaps);
    arena.gaps[0] = (gap){arena.base + STEP - FC_ALIGNMENT, bytes - STEP};
    arena.count = 1;
}

static size_t page_of(const char *address) { return (size_t)(address - arena.base) / PAGE; }

static void remove_gap(size_t i) { memmove(&arena.gaps[i], &arena.gaps[i + 1], (--arena.count - i) * sizeof(gap)); }

/* A block of that many bytes, out of the first gap that holds it; NULL if none does. */
static header *cut(size_t bytes)
{
    size_t i = 0;
    while (i < arena.count && arena.gaps[i].bytes < bytes)
        i++;
    if (i == arena.count)
        return NULL;
    gap *from = &arena.gaps[i];
    char *start = from->start;
    const size_t end = page_of(start + bytes - 1) + 1;
    for (size_t page = page_of(start); page < end; page++) {
        if (arena.touched[page])
            continue;
        if (!provide(arena.base + page * PAGE, PAGE))
            return NULL;
        arena.touched[page] = 1;
        arena.resident++;
    }
    arena.top = end > arena.top ? end : arena.top;
    from->start += bytes;
    from->bytes -= bytes;
    if (from->bytes == 0)
        remove_gap(i);
    return (header *)start;
}

/* Makes a block a gap, one with those beside it. */
static void uncut(char *start, size_t bytes)
{
    size_t low = 0, high = arena.count; /* of the first gap behind it */
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (arena.gaps[middle].start < start)
            low = middle + 1;
        else
            high = middle;
    }
    gap *next = &arena.gaps[low], *last = next - 1;
    const bool joins_last = low > 0 && last->start + last->bytes == start;
    const bool joins_next = low < arena.count && start + bytes == next->start;
    if (joins_last) {
        last->bytes += bytes;
        if (joins_next) {
            last->bytes += next->bytes;
            remove_gap(low);
        }
    } else if (joins_next) {
        next->start = start;
        next->bytes += bytes;
    } else if (arena.count < arena.most_gaps) { /* else these addresses are used no more */
        memmove(next + 1, next, (arena.count++ - low) * sizeof(gap));
        *next = (gap){start, bytes};
    }
}

/* Gives pages that lie in gaps back until no more than so many are touched, or none is left that could be. */
static void give_back_beyond(size_t pages)
{
    for (size_t i = arena.count; i-- > 0 && arena.resident > pages;) {
        const gap *in = &arena.gaps[i];
        const size_t first = page_of(in->start + PAGE - 1);
        size_t page = page_of(in->start + in->bytes);
        page = page < arena.top ? page : arena.top;
        while (page > first && arena.resident > pages) {
            size_t end = page;
            while (page > first && arena.resident > pages && arena.touched[page - 1]) {
                arena.touched[--page] = 0;
                arena.resident--;
            }
            if (page < end)
                give_back(arena.base + page * PAGE, (end - page) * PAGE);
            while (page > first && !arena.touched[page - 1])
                page--;
        }
    }
    while (arena.top > 0 && !arena.touched[arena.top - 1])
        arena.top--;
}

static void give_back_excess(void)
{
    struct timespec now = {0};
    timespec_get(&now, TIME_UTC);
    const double passed = difftime(now.tv_sec, arena.period_start);
    if (passed >= PERIOD || passed < 0) { /* a clock may be set */
        arena.peak_before = passed >= 0 && passed < 2 * PERIOD ? arena.peak : 0;
        arena.peak = 0;
        arena.period_start = now.tv_sec;
    }
    arena.peak = arena.live > arena.peak ? arena.live : arena.peak;
    const size_t most = arena.peak > arena.peak_before ? arena.peak : arena.peak_before;
    const size_t pages = (most + PAGE - 1) / PAGE + SPARE_PAGES;
    if (arena.resident > pages)
        give_back_beyond(pages);
}

/* ---- the interface ------------------------------------------------------------------------------------------------ */

void *fc_memory_acquire(size_t bytes)
{
    if (bytes > PTRDIFF_MAX / 2)
        return NULL;
    const size_t usable = bytes;
    bytes = ((bytes + AFTER + FC_ALIGNMENT + STEP - 1) / STEP | 1) * STEP;
    take_lock();
    if (!arena.tried)
        set_up();
    header *block = cut(bytes);
    if (block != NULL) {
        arena.live += bytes;
        give_back_excess();
    }
    drop_lock();
    void *own = NULL;
    if (block == NULL) {
        own = block = own_memory(bytes);
        if (block == NULL) { /* what is kept may be in the way */
            fc_memory_trim();
            own = block = own_memory(bytes);
        }
        if (block == NULL)
            return NULL;
    }
    if (own == NULL) {
        ALLOW(block, FC_ALIGNMENT + usable);
        FORBID((char *)block + FC_ALIGNMENT + usable, bytes - FC_ALIGNMENT - usable);
    }
    *block = (header){bytes, own};
    return (char *)block + FC_ALIGNMENT;
}

void fc_memory_release(void *memory)
{
    if (memory == NULL)
        return;
    header *block = (header *)((char *)memory - FC_ALIGNMENT);
    if (block->own != NULL) {
        free_own(block->own);
        return;
    }
    const size_t bytes = block->bytes;
    FORBID(block, bytes);
    take_lock();
    arena.live -= bytes;
    uncut((char *)block, bytes);
    give_back_excess();
    drop_lock();
}

size_t fc_memory_size(const void *memory)
{
    return ((const header *)((const char *)memory - FC_ALIGNMENT))->bytes - FC_ALIGNMENT - AFTER;
}

void fc_memory_usage(size_t *live, size_t *held)
{
    take_lock();
    *live = arena.live;
    *held = arena.resident * PAGE;
    drop_lock();
}

void fc_memory_trim(void)
{
    take_lock();
    arena.peak = arena.peak_before = arena.live;
    give_back_beyond(0);
    drop_lock();
}
