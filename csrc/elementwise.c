/* elementwise.c -- splits activations, softmax, cross entropy and gradient descent into tasks. */
#include "core.h"

#include <stdatomic.h>

#define TASK 32768 /* elements that are worth a task */

/* ---- one element at a time ------------------------------------------------------------------------------- */

typedef struct map_call {
    fc_map_kernel *kernel;
    const char *a, *b;
    char *out;
    ptrdiff_t n;
    size_t size; /* of an element */
} map_call;

static void map_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const map_call *m = context;
    const size_t offset = (size_t)index * TASK * m->size;
    m->kernel(m->a + offset, m->b + offset, m->out + offset, fc_min(TASK, m->n - index * TASK));
}

static fc_status map(fc_map_kernel *kernel, size_t size, const void *a, const void *b, void *out, ptrdiff_t n,
                     int threads)
{
    map_call call = {kernel, a, b, out, n, size};
    if (n < 0 || n > FC_LARGEST)
        return FC_INVALID;
    fc_parallel_alike(threads, fc_ceil_div(n, TASK), map_task, &call);
    return FC_OK;
}

static bool streamed(fc_activation kind, fc_dtype dtype, ptrdiff_t n)
{
    return kind == FC_RELU && n >= FC_STREAMED / (ptrdiff_t)fc_size_of(dtype);
}

fc_status fc_activate(fc_activation kind, fc_dtype dtype, const void *x, void *y, ptrdiff_t n, int threads)
{
    const fc_kernels *kernels = fc_kernels_of(dtype);
    fc_map_kernel *kernel = streamed(kind, dtype, n) && y != x ? kernels->relu_streamed[0] : kernels->activate[kind];
    return map(kernel, fc_size_of(dtype), x, x, y, n, threads);
}

fc_status fc_activate_backward(fc_activation kind, fc_dtype dtype, const void *dy, const void *y, void *dx, ptrdiff_t n,
                               int threads)
{
    const fc_kernels *kernels = fc_kernels_of(dtype);
    fc_map_kernel *kernel =
        streamed(kind, dtype, n) && dx != dy && dx != y ? kernels->relu_streamed[1] : kernels->activate_backward[kind];
    return map(kernel, fc_size_of(dtype), dy, y, dx, n, threads);
}

fc_status fc_relu_stored(fc_storage kind, const void *x, void *y, ptrdiff_t n, int threads)
{
    return map(fc_isa_current()->relu_stored[kind], 2, x, x, y, n, threads);
}

fc_status fc_relu_backward_stored(fc_storage kind, const void *dy, const void *y, void *dx, ptrdiff_t n, int threads)
{
    return map(fc_isa_current()->relu_backward_stored[kind], 2, dy, y, dx, n, threads);
}

/* ---- softmax ------------------------------------------------------------------------------------------------ */

#define FEW_CLASSES 32 /* at most, where rows are done side by side, */
#define FEW_ROWS 32    /* so many at a time */

typedef struct softmax_call {
    fc_softmax_kernel *kernel, *columns_kernel;
    fc_softmax_problem problem;
    fc_softmax_job job;
    ptrdiff_t rows, columns; /* a task's share: of outer where inner is 1, of inner elsewhere */
    atomic_bool bad;
} softmax_call;

ptrdiff_t fc_softmax_elements(const fc_softmax_problem *p)
{
    ptrdiff_t n = p->classes;
    if (p->outer < 0 || p->classes < 1 || p->inner < 0 || __builtin_mul_overflow(n, p->outer, &n) ||
        __builtin_mul_overflow(n, p->inner, &n) || n > FC_LARGEST / 8)
        return -1;
    return n;
}

static const void *plus(const void *p, ptrdiff_t elements, size_t size)
{
    return p ? (const char *)p + elements * (ptrdiff_t)size : NULL;
}

/* The job of `count` columns from `column` on of outer element `outer`. */
static void softmax_part(softmax_call *call, ptrdiff_t outer, ptrdiff_t column, ptrdiff_t count)
{
    const fc_softmax_problem *p = &call->problem;
    const size_t size = fc_size_of(p->dtype);
    const ptrdiff_t at = outer * p->classes * p->inner + column, position = outer * p->inner + column;
    fc_softmax_job job = call->job;
    job.count = count;
    job.x = plus(job.x, at, size);
    job.dy = plus(job.dy, at, size);
    job.y = (void *)plus(job.y, at, size);
    job.probabilities = plus(job.probabilities, at, size);
    job.loss = (void *)plus(job.loss, position, size);
    job.target = plus(job.target, position, sizeof *job.target);
    for (ptrdiff_t i = 0; job.target && i < count; i++)
        if (job.target[i] < 0 || job.target[i] >= p->classes) {
            atomic_store_explicit(&call->bad, true, memory_order_relaxed);
            return;
        }
    call->kernel(&job);
}

/* `count` rows of few classes side by side: a row alone would leave most of a vector empty. */
static void softmax_few(softmax_call *call, ptrdiff_t row, ptrdiff_t count)
{
    const fc_softmax_problem *p = &call->problem;
    const fc_kernels *kernels = fc_kernels_of(p->dtype);
    const size_t size = fc_size_of(p->dtype);
    _Alignas(FC_ALIGNMENT) double sides[4][FEW_CLASSES * FEW_ROWS];
    /* not a copy of the call: others may be writing `bad` */
    softmax_call turned = {.kernel = call->columns_kernel, .problem = *p, .job = call->job};
    turned.problem.inner = turned.job.step = FEW_ROWS;
    turned.problem.outer = 1;
    const void **from[] = {&turned.job.x, &turned.job.dy, &turned.job.probabilities};
    for (int i = 0; i < 3; i++)
        if (*from[i] != NULL) {
            kernels->transpose(plus(*from[i], row * p->classes, size), p->classes, sides[i], FEW_ROWS, count,
                               p->classes);
            *from[i] = sides[i];
        }
    turned.job.y = call->job.y == NULL ? NULL : sides[3];
    turned.job.loss = (void *)plus(call->job.loss, row, size);
    turned.job.target = plus(call->job.target, row, sizeof *call->job.target);
    softmax_part(&turned, 0, 0, count);
    if (turned.bad)
        atomic_store_explicit(&call->bad, true, memory_order_relaxed);
    else if (call->job.y != NULL)
        kernels->transpose(sides[3], FEW_ROWS, (void *)plus(call->job.y, row * p->classes, size), p->classes,
                           p->classes, count);
}

static void softmax_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    softmax_call *call = context;
    const fc_softmax_problem *p = &call->problem;
    const ptrdiff_t end = fc_min(p->outer, (index + 1) * call->rows);
    if (p->inner == 1 && p->classes <= FEW_CLASSES && p->outer > 1) {
        for (ptrdiff_t row = index * call->rows; row < end; row += FEW_ROWS)
            softmax_few(call, row, fc_min(FEW_ROWS, end - row));
    } else if (p->inner == 1) {
        for (ptrdiff_t row = index * call->rows; row < end; row++)
            softmax_part(call, row, 0, 1);
    } else {
        const ptrdiff_t parts = fc_ceil_div(p->inner, call->columns), column = index % parts * call->columns;
        softmax_part(call, index / parts, column, fc_min(call->columns, p->inner - column));
    }
}

static fc_status softmax_run(softmax_call *call, fc_softmax_kernel *const kernels[2], const fc_softmax_problem *p,
                             int threads)
{
    if (fc_softmax_elements(p) < 0)
        return FC_INVALID;
    if (p->outer == 0 || p->inner == 0)
        return FC_OK;
    call->kernel = kernels[p->inner != 1];
    call->columns_kernel = kernels[1];
    call->problem = *p;
    call->job.classes = p->classes;
    call->job.step = p->inner;
    call->rows = fc_max(1, TASK / p->classes);
    call->columns = fc_round_up(fc_max(1, TASK / p->classes), 64);
    const ptrdiff_t tasks =
        p->inner == 1 ? fc_ceil_div(p->outer, call->rows) : p->outer * fc_ceil_div(p->inner, call->columns);
    fc_parallel_alike(threads, tasks, softmax_task, call);
    return call->bad ? FC_INVALID : FC_OK;
}

fc_status fc_softmax(const fc_softmax_problem *p, const void *x, void *y, int threads)
{
    softmax_call call = {.job = {.x = x, .y = y}};
    return softmax_run(&call, fc_kernels_of(p->dtype)->softmax, p, threads);
}

fc_status fc_softmax_backward(const fc_softmax_problem *p, const void *dy, const void *y, void *dx, int threads)
{
    softmax_call call = {.job = {.x = y, .dy = dy, .y = dx}};
    return softmax_run(&call, fc_kernels_of(p->dtype)->softmax_backward, p, threads);
}

fc_status fc_cross_entropy(const fc_softmax_problem *p, const void *logits, const int64_t *classes,
                           const void *probabilities, void *loss, void *dlogits, double scale, int threads)
{
    if ((classes == NULL) == (probabilities == NULL))
        return FC_INVALID;
    softmax_call call = {.job = {.x = logits,
                                 .y = dlogits,
                                 .target = classes,
                                 .probabilities = probabilities,
                                 .loss = loss,
                                 .scale = scale}};
    return softmax_run(&call, fc_kernels_of(p->dtype)->cross_entropy, p, threads);
}

fc_status fc_log_softmax(const fc_softmax_problem *p, const void *x, void *y, int threads)
{
    softmax_call call = {.job = {.x = x, .y = y}};
    return softmax_run(&call, fc_kernels_of(p->dtype)->log_softmax, p, threads);
}

fc_status fc_log_softmax_backward(const fc_softmax_problem *p, const void *dy, const void *y, void *dx, int threads)
{
    softmax_call call = {.job = {.x = y, .dy = dy, .y = dx}};
    return softmax_run(&call, fc_kernels_of(p->dtype)->log_softmax_backward, p, threads);
}

fc_status fc_hinge(const fc_softmax_problem *p, const void *x, const int64_t *classes, void *loss, void *dx,
                   double margin, double scale, int threads)
{
    softmax_call call = {.job = {.x = x, .y = dx, .target = classes, .loss = loss, .scale = scale, .margin = margin}};
    return softmax_run(&call, fc_kernels_of(p->dtype)->hinge, p, threads);
}

/* ---- gradient descent ------------------------------------------------------------------------------------- */

typedef struct sgd_call {
    void (*kernel)(const fc_sgd_step *step, void *value, const void *grad, void *velocity, ptrdiff_t n);
    const fc_sgd_step *step;
    size_t size; /* of an element */
    char *value, *velocity;
    const char *grad;
    ptrdiff_t n;
} sgd_call;

static void sgd_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const sgd_call *s = context;
    const size_t offset = (size_t)index * TASK * s->size;
    s->kernel(s->step, s->value + offset, s->grad + offset, s->velocity ? s->velocity + offset : NULL,
              fc_min(TASK, s->n - index * TASK));
}

fc_status fc_sgd(const fc_sgd_step *step, fc_dtype dtype, void *value, const void *grad, void *velocity, ptrdiff_t n,
                 int threads)
{
    if (n < 0 || n > FC_LARGEST)
        return FC_INVALID;
    sgd_call call = {fc_kernels_of(dtype)->sgd, step, fc_size_of(dtype), value, velocity, grad, n};
    fc_parallel_alike(threads, fc_ceil_div(n, TASK), sgd_task, &call);
    return FC_OK;
}
