/* test_runtime.c -- fc_parallel, the workspace cache and the choice of instruction set, as a C program would use them.
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

static void check_parallel(int threads, ptrdiff_t tasks)
{
    counts c = {.threads = threads};
    fc_parallel(threads, tasks, count, &c);
    for (ptrdiff_t i = 0; i < TASKS; i++)
        CHECK(atomic_load(&c.calls[i]) == (i < tasks));
    CHECK(atomic_load(&c.wrong_worker) == 0);
    CHECK(atomic_load(&c.nested_calls) == (tasks > 3 ? 5 : 0));
}

static void check_all_parallel(void)
{
    const int threads[] = {1, 2, 3, 7};
    const ptrdiff_t tasks[] = {0, 1, 2, 5, TASKS};
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 5; j++)
            check_parallel(threads[i], tasks[j]);
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

/* ---- workspaces -------------------------------------------------------------------------------------------- */

static void check_workspaces(void)
{
    const size_t sizes[] = {0, 1, 4096, (size_t)3 << 20, (size_t)65 << 20, (size_t)1 << 20};
    enum { SIZES = sizeof sizes / sizeof *sizes };
    void *held[SIZES];
    for (int i = 0; i < SIZES; i++) {
        held[i] = fc_workspace_acquire(sizes[i]);
        CHECK(held[i] != NULL);
        CHECK((uintptr_t)held[i] % FC_ALIGNMENT == 0);
        memset(held[i], i, sizes[i]);
    }
    for (int i = 0; i < SIZES; i++) {
        CHECK(sizes[i] == 0 || ((unsigned char *)held[i])[sizes[i] - 1] == i); /* none overlaps another */
        fc_workspace_release(held[i]);
    }
    void *again = fc_workspace_acquire((size_t)3 << 20);
    CHECK(again == held[3]); /* the smallest that fits, not a new one */
    fc_workspace_release(again);
    fc_workspace_release(NULL);
    CHECK(fc_workspace_acquire(SIZE_MAX) == NULL);
    CHECK(fc_workspace_acquire(SIZE_MAX / 2 - 4096) == NULL);
    fc_workspace_trim();

    void *many[100]; /* more than the cache keeps */
    for (int i = 0; i < 100; i++)
        CHECK((many[i] = fc_workspace_acquire(100000)) != NULL);
    for (int i = 0; i < 100; i++)
        fc_workspace_release(many[i]);
}

/* ---- everything at once, from several threads ---------------------------------------------------------------- */

static void *caller(void *argument)
{
    int me = (int)(intptr_t)argument;
    for (int round = 0; round < ROUNDS; round++) {
        size_t bytes = (size_t)1 << (8 + (me * 7 + round) % 14);
        unsigned char *workspace = fc_workspace_acquire(bytes);
        CHECK(workspace != NULL);
        memset(workspace, me, bytes);
        check_parallel(1 + (me + round) % 3, 1 + round);
        for (size_t i = 0; i < bytes; i++)
            CHECK(workspace[i] == me);
        fc_workspace_release(workspace);
        CHECK(fc_isa_current() != NULL);
        if (round % 10 == 9)
            fc_workspace_trim();
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

/* Takes and drops the workspaces' lock without a pause, so that a fork falls where it is held. */
static void *hammer(void *stop)
{
    while (!atomic_load((atomic_bool *)stop))
        fc_workspace_release(fc_workspace_acquire(5000));
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
            fc_workspace_release(fc_workspace_acquire(5000));
            check_parallel(3, 100);
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
    check_workspaces();
    check_callers();
    if (argc == 1) /* an argument: no fork, for sanitizers */
        check_fork();
    fc_workspace_trim();
    printf("ok: %s, OpenMP %d, %d threads\n", fc_compiler(), fc_openmp(), fc_default_threads());
    return 0;
}
