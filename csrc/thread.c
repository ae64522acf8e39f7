/* thread.c -- the one file that names OpenMP: runs tasks on workers, and says how many workers there should be. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "core.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef _WIN32
#include <windows.h>
#else
#include <pthread.h>
#include <unistd.h>
#endif
#ifdef __linux__
#include <sched.h>
#endif
#ifdef __SSE__
#include <xmmintrin.h>
#endif

/* ---- denormal numbers ------------------------------------------------------------------------------------ */

/* Arithmetic on denormals costs 20 to 100 times the usual; while tasks run they count as zero. The caller's whole control
 * word comes back afterwards, its exception flags included. */
#if defined(__SSE__)
#define FLUSH_BITS 0x8040u /* flush results to zero, take denormal operands as zero */
typedef unsigned float_mode;
static float_mode flush_denormals(void)
{
    float_mode saved = _mm_getcsr();
    _mm_setcsr(saved | FLUSH_BITS);
    return saved;
}
static void restore_denormals(float_mode saved) { _mm_setcsr(saved); }
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static float_mode flush_denormals(void)
{
    float_mode saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved | (UINT64_C(1) << 24)) : "memory");
    return saved;
}
static void restore_denormals(float_mode saved) { __asm__ volatile("msr fpcr, %0" : : "r"(saved) : "memory"); }
#else
typedef int float_mode;
static float_mode flush_denormals(void) { return 0; }
static void restore_denormals(float_mode saved) { (void)saved; }
#endif

/* ---- how many threads ------------------------------------------------------------------------------------ */

#ifdef _OPENMP

static int affinity(void)
{
#if defined(__linux__)
    for (int size = 1024; size <= 1 << 20; size *= 4) { /* the kernel refuses a set smaller than its own */
        cpu_set_t *set = CPU_ALLOC(size);
        if (set == NULL)
            break;
        int failed = sched_getaffinity(0, CPU_ALLOC_SIZE(size), set);
        int count = failed ? 0 : CPU_COUNT_S(CPU_ALLOC_SIZE(size), set);
        CPU_FREE(set);
        if (count > 0)
            return count;
    }
#elif defined(_WIN32)
    DWORD_PTR process, system;
    int count = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system))
        for (; process != 0; process &= process - 1)
            count++;
    return count > 0 ? count : 1;
#endif
#ifndef _WIN32
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
#endif
}

#ifdef __linux__

#ifndef FC_CGROUP_SELF /* tests put files of their own here */
#define FC_CGROUP_SELF "/proc/self/cgroup"
#define FC_CGROUP_ROOT "/sys/fs/cgroup"
#endif

/* Reads two integers from up to two files (v1 has one in each); "max" and -1 mean no quota. */
static bool read_quota(const char *folder, const char *path, bool v1, int *cpus)
{
    char name[4352];
    long long quota = -1, period = 0;
    snprintf(name, sizeof name, "%s%s/%s", folder, path, v1 ? "cpu.cfs_quota_us" : "cpu.max");
    FILE *file = fopen(name, "r");
    if (file == NULL)
        return false;
    int read = fscanf(file, v1 ? "%lld" : "%lld %lld", &quota, &period);
    fclose(file);
    if (v1 && read == 1) {
        snprintf(name, sizeof name, "%s%s/cpu.cfs_period_us", folder, path);
        file = fopen(name, "r");
        if (file == NULL)
            return false;
        read += fscanf(file, "%lld", &period);
        fclose(file);
    }
    if (read != 2 || quota <= 0 || period <= 0)
        return false;
    long long whole = (quota + period - 1) / period;
    *cpus = whole < *cpus ? (int)whole : *cpus;
    return true;
}

/* The tightest CPU quota among this process's control group and all that hold it, rounded up, or `cpus` if that is less.
 * Containers may see their own path as "/" or the host's, of which only the last parts exist: what is missing is skipped. */
static int cgroup_quota(int cpus)
{
    static const char *const v1_folders[] = {FC_CGROUP_ROOT "/cpu", FC_CGROUP_ROOT "/cpu,cpuacct"};
    static const char *const v2_folders[] = {FC_CGROUP_ROOT, FC_CGROUP_ROOT "/unified"};
    char line[4224];
    FILE *file = fopen(FC_CGROUP_SELF, "r");
    if (file == NULL)
        return cpus;
    while (fgets(line, sizeof line, file)) { /* hierarchy:controllers:path */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *controllers++ = *path++ = '\0';
        bool v2 = *controllers == '\0', v1 = false;
        char *rest;
        for (char *name = strtok_r(controllers, ",", &rest); name; name = strtok_r(NULL, ",", &rest))
            v1 |= strcmp(name, "cpu") == 0;
        if (!v1 && !v2)
            continue;
        for (char *end = path + strlen(path);; *end = '\0') {
            for (int i = 0; i < 2; i++)
                if (read_quota(v1 ? v1_folders[i] : v2_folders[i], path, v1, &cpus))
                    break;
            if (path == end)
                break;
            while (end > path && *--end != '/')
                continue;
        }
    }
    fclose(file);
    return cpus;
}

#endif /* __linux__ */

static int count_threads(void)
{
    int count = affinity();
#ifdef __linux__
    count = cgroup_quota(count);
#endif
    const char *text = getenv("OMP_NUM_THREADS"); /* a list gives one number for each level of nesting */
    long wanted = text ? strtol(text, NULL, 10) : 0;
    if (wanted > 0 && wanted < count)
        count = (int)wanted;
    return count > 0 ? count : 1;
}

int fc_openmp(void) { return 1; }

int fc_default_threads(void)
{
    static atomic_int known; /* the answer costs file reads, and every parallel call asks */
    int count = atomic_load_explicit(&known, memory_order_relaxed);
    if (count == 0) {
        count = count_threads();
        atomic_store_explicit(&known, count, memory_order_relaxed);
    }
    return count;
}

/* ---- work on several threads ------------------------------------------------------------------------------ */

static atomic_int busy;           /* workers now running tasks, over all callers */
static _Thread_local bool inside; /* this thread is running tasks */
static atomic_bool forked;        /* this process is a fork's child */
static int initial_limit;         /* omp_get_max_threads() when we were loaded */

/* GNU's OpenMP waits for ever on threads that fork did not copy, and there is no asking whether it had any. */
#ifndef _WIN32
static void after_fork(void)
{
    atomic_store(&forked, true);
    atomic_store(&busy, 0); /* who else was busy is no longer here */
}
#endif

__attribute__((constructor)) static void on_load(void)
{
    initial_limit = omp_get_max_threads();
#ifndef _WIN32
    pthread_atfork(NULL, NULL, after_fork);
#endif
}

/* Workers for a call that may have `threads`. */
static int team_size(int threads)
{
    if (atomic_load_explicit(&forked, memory_order_relaxed))
        return 1;
    int limit = omp_get_max_threads(); /* changed since loading: by omp_set_num_threads, as threadpoolctl does */
    if (limit != initial_limit && limit < threads)
        threads = limit;
    /* Calls from several threads at once share the processors. Halving, not taking what is left, since a team that
     * changes its size makes the OpenMP library create and end threads. */
    int budget = fc_default_threads() > threads ? fc_default_threads() : threads;
    int unused = budget - atomic_load_explicit(&busy, memory_order_relaxed);
    while (threads > 1 && threads > unused)
        threads /= 2;
    return threads;
}

/* The tasks of which one worker begins: how many of them are taken. */
typedef struct share {
    _Alignas(64) atomic_ptrdiff_t taken; /* written by all who take from it: on a line of its own */
} share;

enum { MOST_SHARES = 64, TURNS = 8, LEFT = 12 };

typedef struct job {
    fc_task *task;
    void *context;
    ptrdiff_t tasks;
    ptrdiff_t shares, run; /* shares have so many tasks side by side, by turns */
    ptrdiff_t left;        /* of a share, that only its own worker takes */
    share share[MOST_SHARES];
} job;

/* Each worker does its own share first, and then what is left of the others'. Neighbouring tasks touch neighbouring memory, and those of one
 * section often what the same ones of the section before wrote: it lies in the cache of whoever did them. Turns make shares alike where
 * tasks are not: the last ones are often smaller. Where they are, shares are stretches: the processor fetches ahead, past a share's end, what
 * lies in another's cache. */
static void work(job *job, int worker)
{
    inside = true;
    const ptrdiff_t round = job->shares * job->run, most = (job->tasks + round - 1) / round * job->run;
    for (ptrdiff_t i = 0; i < job->shares; i++) {
        const ptrdiff_t own = (worker + i) % job->shares;
        atomic_ptrdiff_t *taken = &job->share[own].taken;
        const ptrdiff_t end = i > 0 ? most - job->left : most;
        while (atomic_load_explicit(taken, memory_order_relaxed) < end) {
            const ptrdiff_t n = atomic_fetch_add_explicit(taken, 1, memory_order_relaxed),
                            index = n / job->run * round + own * job->run + n % job->run;
            if (n < most && index < job->tasks)
                job->task(job->context, index, worker);
        }
    }
    inside = false;
}

/* Tasks side by side in a share. */
static ptrdiff_t run_of(int threads, ptrdiff_t tasks, bool alike)
{
    const ptrdiff_t shares = fc_min(threads, MOST_SHARES);
    return alike ? fc_ceil_div(tasks, shares) : fc_max(tasks / (TURNS * shares), 1);
}

ptrdiff_t fc_task_after(int threads, ptrdiff_t tasks, ptrdiff_t index)
{
    const ptrdiff_t run = run_of(threads, tasks, false), next = index + 1;
    return next % run ? next : next + (fc_min(threads, MOST_SHARES) - 1) * run;
}

/* What went past the caches is in memory before others may read it. */
static void fence(void)
{
#ifdef __SSE__
    _mm_sfence();
#endif
}

/* All threads, even for fewer tasks: see team_size on changing sizes. */
static void run_team(int threads, ptrdiff_t tasks, fc_task *task, void *context, bool alike)
{
    job shared = {.task = task,
                  .context = context,
                  .tasks = tasks,
                  .shares = fc_min(threads, MOST_SHARES),
                  .run = run_of(threads, tasks, alike)};
    shared.left = alike ? shared.run / LEFT : 0;
    for (ptrdiff_t i = 0; i < shared.shares; i++)
        atomic_init(&shared.share[i].taken, 0);
#pragma omp parallel num_threads(threads)
    {
        float_mode saved = flush_denormals();
        work(&shared, omp_get_thread_num());
        fence();
        restore_denormals(saved);
    }
}

static void run_alone(ptrdiff_t tasks, fc_task *task, void *context)
{
    float_mode saved = flush_denormals();
    for (ptrdiff_t i = 0; i < tasks; i++)
        task(context, i, 0);
    restore_denormals(saved);
}

static void run_parallel(int threads, ptrdiff_t tasks, fc_task *task, void *context, bool alike)
{
    if (inside) { /* a task's own call: its caller's worker is counted and set up */
        run_alone(tasks, task, context);
        return;
    }
    int team = threads > 1 && tasks > 1 ? team_size(threads) : 1;
    atomic_fetch_add_explicit(&busy, team, memory_order_relaxed);
    if (team > 1) {
        run_team(team, tasks, task, context, alike);
    } else {
        inside = true;
        run_alone(tasks, task, context);
        inside = false;
    }
    atomic_fetch_sub_explicit(&busy, team, memory_order_relaxed);
}

void fc_parallel(int threads, ptrdiff_t tasks, fc_task *task, void *context)
{
    run_parallel(threads, tasks, task, context, false);
}

void fc_parallel_alike(int threads, ptrdiff_t tasks, fc_task *task, void *context)
{
    run_parallel(threads, tasks, task, context, true);
}

/* ---- how far threads are apart ----------------------------------------------------------------------------- */

static atomic_int forced_apart = -1;

void fc_threads_set_apart(int apart) { atomic_store(&forced_apart, apart); }

/* Of a cache line to another thread and back. Measured on Zen 4 and 5: 50 to 110 ns in a common cache, 320 to 390 without. */
#define APART_SECONDS 220e-9
#define APART_AGE 0.05        /* seconds that an answer is good for */
#define APART_PATIENCE 100e-6 /* after which whoever does not answer has no processor now */
enum { APART_ROUNDS = 8, APART_TRIES = 3, APART_SPINS = 256 /* between looks at the clock */ };

typedef struct handover {
    _Alignas(64) atomic_int line;  /* odd: sent to the other; even: back */
    _Alignas(64) atomic_int other; /* whose turn it is; negative: nobody's any more */
    double start;
} handover;

/* False if patience runs out first, or, where `stop` is given, it is negative. */
static bool wait_for(atomic_int *value, int wanted, atomic_int *stop, double start)
{
    for (int spins = 0; atomic_load_explicit(value, memory_order_acquire) != wanted; spins++) {
        if (stop && atomic_load_explicit(stop, memory_order_relaxed) < 0)
            return false;
        if (spins % APART_SPINS == APART_SPINS - 1 && omp_get_wtime() - start > APART_PATIENCE)
            return false;
    }
    return true;
}

/* Seconds to the worker and back, or 0 if it does not answer. */
static double handover_to(handover *h, int worker, int *sent)
{
    double best = 0;
    atomic_store(&h->other, worker);
    for (int t = 0; t < APART_TRIES; t++) {
        const double start = omp_get_wtime();
        for (int i = 0; i < APART_ROUNDS; i++, *sent += 2) {
            atomic_store_explicit(&h->line, *sent + 1, memory_order_release);
            if (!wait_for(&h->line, *sent + 2, NULL, h->start))
                return 0;
        }
        const double seconds = (omp_get_wtime() - start) / APART_ROUNDS;
        best = t == 0 || seconds < best ? seconds : best;
    }
    return best;
}

static void answer_handovers(handover *h, int worker)
{
    int sent = (worker - 1) * APART_TRIES * APART_ROUNDS * 2;
    if (!wait_for(&h->other, worker, &h->other, h->start))
        return;
    for (int i = 0; i < APART_TRIES * APART_ROUNDS; i++, sent += 2) {
        if (!wait_for(&h->line, sent + 1, &h->other, h->start))
            return;
        atomic_store_explicit(&h->line, sent + 2, memory_order_release);
    }
}

bool fc_threads_apart(int threads)
{
    static atomic_bool apart = true;
    static _Atomic(double) until;
    const int forced = atomic_load_explicit(&forced_apart, memory_order_relaxed);
    if (threads < 2 || forced >= 0)
        return threads > 1 && forced;
    const double now = omp_get_wtime();
    double old = atomic_load_explicit(&until, memory_order_relaxed);
    const int team = inside || now < old ? 1 : team_size(threads);
    /* one of several callers measures */
    if (team < 2 || !atomic_compare_exchange_strong(&until, &old, now + APART_AGE))
        return atomic_load_explicit(&apart, memory_order_relaxed);
    handover h = {.start = now};
    atomic_fetch_add_explicit(&busy, team, memory_order_relaxed);
#pragma omp parallel num_threads(team)
    {
        if (omp_get_thread_num() > 0) {
            answer_handovers(&h, omp_get_thread_num());
        } else {
            double seconds = 1;
            int sent = 0;
            for (int i = 1; i < omp_get_num_threads() && seconds > 0 && (i == 1 || seconds < APART_SECONDS); i++)
                seconds = handover_to(&h, i, &sent);
            atomic_store(&h.other, -1);
            if (seconds > 0)
                atomic_store_explicit(&apart, seconds >= APART_SECONDS, memory_order_relaxed);
        }
    }
    atomic_fetch_sub_explicit(&busy, team, memory_order_relaxed);
    return atomic_load_explicit(&apart, memory_order_relaxed);
}

#else /* no OpenMP */

int fc_openmp(void) { return 0; }
int fc_default_threads(void) { return 1; }

bool fc_threads_apart(int threads)
{
    (void)threads;
    return false;
}

void fc_threads_set_apart(int apart) { (void)apart; }

ptrdiff_t fc_task_after(int threads, ptrdiff_t tasks, ptrdiff_t index)
{
    (void)threads;
    (void)tasks;
    return index + 1;
}

void fc_parallel(int threads, ptrdiff_t tasks, fc_task *task, void *context)
{
    (void)threads;
    float_mode saved = flush_denormals();
    for (ptrdiff_t i = 0; i < tasks; i++)
        task(context, i, 0);
    restore_denormals(saved);
}

void fc_parallel_alike(int threads, ptrdiff_t tasks, fc_task *task, void *context)
{
    fc_parallel(threads, tasks, task, context);
}

#endif
