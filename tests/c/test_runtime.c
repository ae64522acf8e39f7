/* test_runtime.c -- fc_parallel, memory and the choice of instruction set, as a C program would use them.
 * Prints a line and exits with 1 at the first thing that is wrong. */
#include "core.h"

#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TASKS = 1000, CALLERS = 4, ROUNDS = 50 };

/* ---- fc_parallel ------------------------------------------------------------------------------------------- */

typedef struct counts {
    atomic_int calls[TASKS];
    atomic_int wrong_worker, nested_calls;
    int threads;
} counts;

static void nested(void *context, ptrdiff_t index, int worker)
{
    counts *c = context;
    (void)index;
    atomic_fetch_add(&c->wrong_worker, worker != 0);
    atomic_fetch_add(&c->nested_calls, 1);
}

static void count(void *context, ptrdiff_t index, int worker)
{
    counts *c = context;
    atomic_fetch_add(&c->calls[index], 1);
    atomic_fetch_add(&c->wrong_worker, worker < 0 || worker >= c->threads);
    if (index == 3)
        fc_parallel(c->threads, 5, nested, c);
}

typedef void parallel(int threads, ptrdiff_t tasks, fc_task *task, void *context);

static void check_parallel(parallel *run, int threads, ptrdiff_t tasks)
{
    counts c = {.threads = threads};
    run(threads, tasks, count, &c);
    for (ptrdiff_t i = 0; i < TASKS; i++)
        CHECK(atomic_load(&c.calls[i]) == (i < tasks));
    CHECK(atomic_load(&c.wrong_worker) == 0);
    CHECK(atomic_load(&c.nested_calls) == (tasks > 3 ? 5 : 0));
}

static void check_all_parallel(void)
{
    const int threads[] = {1, 2, 3, 7};
    const ptrdiff_t tasks[] = {0, 1, 2, 5, 25, TASKS};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 6; j++) {
            check_parallel(fc_parallel, threads[i], tasks[j]);
            check_parallel(fc_parallel_alike, threads[i], tasks[j]);
        }
}

/* ---- denormals --------------------------------------------------------------------------------------------- */

static volatile float tiny = 1e-38f;
static bool flushes(void) { return tiny * 0.1f == 0.0f; }

static void expect_flushing(void *context, ptrdiff_t index, int worker)
{
    (void)index, (void)worker;
    atomic_fetch_add((atomic_int *)context, !flushes());
    fc_parallel(2, 2, nested, &(counts){.threads = 2});
    atomic_fetch_add((atomic_int *)context, !flushes()); /* nor may a nested call put them back */
}

static void check_denormals(void)
{
    for (int threads = 1; threads <= 3; threads++) {
        atomic_int kept = 0;
        CHECK(!flushes());
        fc_parallel(threads, 100, expect_flushing, &kept);
        CHECK(atomic_load(&kept) == 0);
        CHECK(!flushes());
    }
}

/* ---- memory -------------------------------------------------------------------------------------------------- */

static void check_memory(void)
{
    const size_t sizes[] = {0, 1, 4096, (size_t)3 << 20, (size_t)65 << 20, (size_t)1 << 20};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    void *held[SIZES];
    for (int i = 0; i < SIZES; i++) {
        held[i] = fc_memory_acquire(sizes[i]);
        CHECK(held[i] != NULL);
        CHECK((uintptr_t)held[i] % FC_ALIGNMENT == 0);
        memset(held[i], i, sizes[i]);
    }
    for (int i = 0; i < SIZES; i++) {
        CHECK(sizes[i] == 0 || ((unsigned char *)held[i])[sizes[i] - 1] == i); /* none overlaps another */
        fc_memory_release(held[i]);
    }
    fc_memory_release(NULL);
    CHECK(fc_memory_acquire(SIZE_MAX) == NULL);
    CHECK(fc_memory_acquire(SIZE_MAX / 2 - 4096) == NULL);
    fc_memory_trim();
}

enum { PAGE = 2 << 20, SPARE = 2 * PAGE };

static size_t live(void)
{
    size_t bytes, held;
    fc_memory_usage(&bytes, &held);
    return bytes;
}

static size_t held(void)
{
    size_t bytes, pages;
    fc_memory_usage(&bytes, &pages);
    return pages;
}

static void check_memory_is_kept(void)
{
    const size_t before = live();
    fc_memory_trim();
    const size_t least = held(), large = (size_t)20 << 20;
    void *one = fc_memory_acquire(large);
    CHECK(one != NULL && fc_memory_size(one) >= large);
    if (live() == before) { /* nothing could be reserved: malloc serves */
        fc_memory_release(one);
        return;
    }
    void *two = fc_memory_acquire(large / 2);
    CHECK(live() >= before + large * 3 / 2 && held() >= least + large);
    memset(one, 1, large);
    memset(two, 2, large / 2);
    fc_memory_release(one);
    CHECK(live() < before + large && held() >= least + large); /* kept */
    void *parts[5];
    for (int i = 0; i < 5; i++) { /* of the same pages */
        CHECK((parts[i] = fc_memory_acquire(large / 6)) != NULL);
        CHECK((char *)parts[i] >= (char *)one && (char *)parts[i] < (char *)one + large);
    }
    for (int i = 0; i < 5; i++)
        fc_memory_release(parts[(i * 2) % 5]);
    CHECK(fc_memory_acquire(large) == one); /* the gaps became one */
    CHECK(*(unsigned char *)two == 2);
    /* What is larger than ever before takes the place of what lies idle. */
    fc_memory_release(one);
    void *larger = fc_memory_acquire(2 * large);
    CHECK(held() <= least + live() - before + SPARE + PAGE);
    fc_memory_release(larger);
    fc_memory_release(two);
    CHECK(live() == before && held() > least);
    fc_memory_trim();
    CHECK(held() == least);
}

static void check_memory_at_random(void)
{
    enum { BLOCKS = 200, STEPS = 20000 };
    unsigned char *blocks[BLOCKS] = {0};
    size_t sizes[BLOCKS];
    uint64_t state = 1;
    fc_memory_trim();
    const size_t least = held();
    for (int step = 0; step < STEPS; step++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const int i = (int)(state >> 33) % BLOCKS;
        if (blocks[i] != NULL) {
            CHECK(blocks[i][0] == i && blocks[i][sizes[i] / 2] == i && blocks[i][sizes[i] - 1] == i);
            fc_memory_release(blocks[i]);
            blocks[i] = NULL;
            continue;
        }
        sizes[i] = 1 + (size_t)(state >> 20) % ((size_t)1 << (4 + (state >> 50) % 18));
        CHECK((blocks[i] = fc_memory_acquire(sizes[i])) != NULL);
        CHECK((uintptr_t)blocks[i] % FC_ALIGNMENT == 0);
        blocks[i][0] = blocks[i][sizes[i] / 2] = blocks[i][sizes[i] - 1] = (unsigned char)i; /* none overlaps another */
        if (step % 4000 == 3999)
            fc_memory_trim();
    }
    for (int i = 0; i < BLOCKS; i++)
        fc_memory_release(blocks[i]);
    fc_memory_trim();
    CHECK(held() == least);
}

/* ---- everything at once, from several threads ---------------------------------------------------------------- */

static void *caller(void *argument)
{
    int me = (int)(intptr_t)argument;
    for (int round = 0; round < ROUNDS; round++) {
        size_t bytes = (size_t)1 << (8 + (me * 7 + round) % 14);
        unsigned char *workspace = fc_memory_acquire(bytes);
        CHECK(workspace != NULL);
        memset(workspace, me, bytes);
        check_parallel(fc_parallel, 1 + (me + round) % 3, 1 + round);
        for (size_t i = 0; i < bytes; i++)
            CHECK(workspace[i] == me);
        fc_memory_release(workspace);
        CHECK(fc_isa_current() != NULL);
        if (round % 10 == 9)
            fc_memory_trim();
    }
    return NULL;
}

static void check_callers(void)
{
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        CHECK(pthread_create(&threads[i], NULL, caller, (void *)(intptr_t)(i + 1)) == 0);
    for (int i = 0; i < CALLERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* ---- how far threads are apart -------------------------------------------------------------------------------- */

static void ask_apart(void *context, ptrdiff_t index, int worker)
{
    (void)index;
    (void)worker;
    atomic_fetch_add((atomic_int *)context, fc_threads_apart(4) ? 1 : 0); /* a task may not, but it must not hang */
}

static void *asker(void *threads)
{
    for (int i = 0; i < 20; i++) {
        (void)fc_threads_apart((int)(intptr_t)threads);
        usleep(5000);
    }
    return NULL;
}

/* It answers at once, for one thread and for many more than there are processors, and whoever else asks; it is what tests make it. */
static void check_apart(void)
{
    CHECK(!fc_threads_apart(1));
    for (int threads = 2; threads <= 40; threads += 19) {
        (void)fc_threads_apart(threads);
        usleep(60000); /* until the answer is too old */
    }
    pthread_t threads[CALLERS];
    for (int i = 0; i < CALLERS; i++)
        CHECK(pthread_create(&threads[i], NULL, asker, (void *)(intptr_t)(i + 2)) == 0);
    for (int i = 0; i < CALLERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    usleep(60000);
    atomic_int count = 0;
    fc_parallel(2, 50, ask_apart, &count);
    CHECK(count == 0 || count == 50);
    for (int apart = 0; apart < 2; apart++) {
        fc_threads_set_apart(apart);
        CHECK(fc_threads_apart(2) == (apart && fc_openmp()) && !fc_threads_apart(1));
    }
    fc_threads_set_apart(-1);
}

/* Takes and drops the memory's lock without a pause, so that a fork falls where it is held. */
static void *hammer(void *stop)
{
    while (!atomic_load((atomic_bool *)stop))
        fc_memory_release(fc_memory_acquire(5000));
    return NULL;
}

/* Forks while other threads hold what can be held; the child must end, not hang. */
static void check_fork(void)
{
    pthread_t threads[CALLERS];
    atomic_bool stop = false;
    CHECK(pthread_create(&threads[0], NULL, hammer, &stop) == 0);
    CHECK(pthread_create(&threads[1], NULL, hammer, &stop) == 0);
    for (int i = 2; i < CALLERS; i++)
        CHECK(pthread_create(&threads[i], NULL, caller, (void *)(intptr_t)(i + 1)) == 0);
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(30);
            fc_memory_release(fc_memory_acquire(5000));
            check_parallel(fc_parallel, 3, 100);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK(status == 0);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < CALLERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

/* ---- instruction sets ---------------------------------------------------------------------------------------- */

static void check_isas(void)
{
    const char *best = fc_isa_available(0), *name, *last = NULL;
    CHECK(best != NULL && strcmp(fc_isa(), best) == 0);
    for (int i = 0; (name = fc_isa_available(i)) != NULL; i++) {
        CHECK(fc_isa_select(name) == FC_OK && strcmp(fc_isa(), name) == 0);
        last = name;
    }
    CHECK(strcmp(last, "generic") == 0);
    CHECK(fc_isa_available(-1) == NULL && fc_isa_available(100) == NULL);
    CHECK(fc_isa_select("no such thing") == FC_INVALID && strcmp(fc_isa(), last) == 0);
    CHECK(fc_isa_select("") == FC_OK && strcmp(fc_isa(), best) == 0);
    CHECK(fc_isa_select(last) == FC_OK && fc_isa_select(NULL) == FC_OK && strcmp(fc_isa(), best) == 0);
}

int main(int argc, char **argv)
{
    (void)argv;
    CHECK(fc_default_threads() >= 1);
    CHECK(strlen(fc_compiler()) > 3);
    check_isas();
    check_all_parallel();
    check_denormals();
    check_memory();
    check_memory_is_kept();
    check_memory_at_random();
    check_callers();
    check_apart();
    if (argc == 1) /* an argument: no fork, for sanitizers */
        check_fork();
    fc_memory_trim();
    printf("ok: %s, OpenMP %d, %d threads\n", fc_compiler(), fc_openmp(), fc_default_threads());
    return 0;
}
