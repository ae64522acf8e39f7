/* pool.c -- checks a pooling problem and splits it into tasks. */
#include "core.h"

#include <stdatomic.h>

#define TASK 32768 /* elements read and written that are worth a task */

ptrdiff_t fc_pool_elements(const fc_pool_problem *p, int array)
{
    ptrdiff_t x = 1, y = 1;
    bool fits = fc_multiply(&x, p->batch) && fc_multiply(&x, p->channels) && fc_multiply(&y, p->batch) &&
                fc_multiply(&y, p->channels);
    for (int a = 0; a < 3; a++) {
        ptrdiff_t span = 1, reach = 1;
        fits = fits && fc_multiply(&x, p->input[a]) && fc_multiply(&y, p->output[a]);
        if (p->kernel[a] < 1 || p->stride[a] < 1 || p->dilation[a] < 1 || p->pad_before[a] < 0 || p->pad_after[a] < 0 ||
            p->pad_before[a] > FC_LARGEST || p->pad_after[a] > FC_LARGEST || !fc_multiply(&span, p->kernel[a]) ||
            !fc_multiply(&span, p->dilation[a]) || !fc_multiply(&reach, p->output[a]) ||
            !fc_multiply(&reach, p->stride[a]))
            return -1;
    }
    ptrdiff_t bytes_x = x, bytes_y = y; /* of the widest elements */
    if (!fits || !fc_multiply(&bytes_x, 8) || !fc_multiply(&bytes_y, 8))
        return -1;
    return array == 0 ? x : y;
}

typedef struct pool_call {
    fc_pool_job job;
    fc_pool_kernel *kernel;
    fc_scatter_kernel *scatter;
    ptrdiff_t units, chunk;
    atomic_bool bad;
} pool_call;

static void pool_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    pool_call *call = context;
    const ptrdiff_t first = index * call->chunk, last = fc_min(call->units, first + call->chunk);
    if (call->kernel)
        call->kernel(&call->job, first, last);
    else if (!call->scatter(&call->job, first, last))
        atomic_store_explicit(&call->bad, true, memory_order_relaxed);
}

/* In units of which `plane` make a plane of channels first: a task gets whole planes, or an even part of one. */
static void pool_run(pool_call *call, ptrdiff_t units, ptrdiff_t plane, ptrdiff_t elements, int threads)
{
    ptrdiff_t chunk = fc_max(1, TASK / fc_max(1, elements / units));
    if (chunk >= plane)
        chunk = chunk / plane * plane;
    else
        chunk = fc_ceil_div(plane, fc_ceil_div(plane, chunk));
    call->units = units;
    call->chunk = chunk;
    fc_parallel_alike(threads, fc_ceil_div(units, chunk), pool_task, call);
}

/* Rows of the array that a kernel writes, which has these lengths. */
static void pool_rows(pool_call *call, const ptrdiff_t lengths[3], int threads)
{
    const fc_pool_problem *p = call->job.problem;
    const ptrdiff_t x = fc_pool_elements(p, 0), y = fc_pool_elements(p, 1), plane = lengths[0] * lengths[1];
    const ptrdiff_t units = p->batch * plane * (p->layout == FC_CHANNELS_FIRST ? p->channels : 1);
    if (units > 0 && p->channels > 0 && lengths[2] > 0)
        pool_run(call, units, p->layout == FC_CHANNELS_FIRST ? plane : 1, x + y, threads);
}

static bool windows_valid(const fc_pool_problem *p)
{
    if (fc_pool_elements(p, 0) < 0)
        return false;
    for (int a = 0; a < 3; a++)
        if (p->input[a] < 1 || p->output[a] < 1)
            return false;
    return true;
}

static bool too_narrow(const fc_pool_problem *p)
{
    return !p->wide && p->input[0] * p->input[1] * p->input[2] > INT32_MAX;
}

fc_status fc_max_pool(const fc_pool_problem *problem, const void *x, void *y, void *switches, int threads)
{
    if (!windows_valid(problem) || (switches && too_narrow(problem)))
        return FC_INVALID;
    fc_pool_problem narrow = *problem; /* planes too large for the kernels' own 32-bit indices go as wide ones do */
    if (too_narrow(problem))
        narrow.wide = 1;
    else if (!switches)
        narrow.wide = 0;
    const ptrdiff_t written = fc_pool_elements(problem, 1);
    const bool streamed = written >= FC_STREAMED / ((ptrdiff_t)fc_size_of(problem->dtype) + (switches ? 4 : 0));
    pool_call call = {.job = {&narrow, x, y, switches, 0, streamed},
                      .kernel = fc_kernels_of(problem->dtype)->max_pool[problem->layout]};
    pool_rows(&call, narrow.output, threads);
    return FC_OK;
}

/* `to` and its gradient's `from` are planes or strips of channels that switches point into. */
static fc_status follow_switches(fc_scatter_kernel *const kernels[2], const fc_pool_problem *p, const void *from,
                                 const void *switches, void *to, int threads)
{
    if (fc_pool_elements(p, 0) < 0 || too_narrow(p))
        return FC_INVALID;
    const ptrdiff_t x = fc_pool_elements(p, 0), y = fc_pool_elements(p, 1);
    const bool streamed = x >= FC_STREAMED / (ptrdiff_t)fc_size_of(p->dtype);
    pool_call call = {.job = {p, from, to, (void *)switches, 0, streamed}, .scatter = kernels[p->layout]};
    const ptrdiff_t units =
        p->batch * (p->layout == FC_CHANNELS_FIRST ? p->channels : fc_ceil_div(p->channels, FC_SCATTER_CHANNELS));
    if (units > 0)
        pool_run(&call, units, 1, x + 2 * y, threads);
    return call.bad ? FC_INVALID : FC_OK;
}

fc_status fc_max_pool_backward(const fc_pool_problem *p, const void *dy, const void *switches, void *dx, int threads)
{
    return follow_switches(fc_kernels_of(p->dtype)->max_pool_backward, p, dy, switches, dx, threads);
}

fc_status fc_max_unpool(const fc_pool_problem *p, const void *y, const void *switches, void *x, int threads)
{
    return follow_switches(fc_kernels_of(p->dtype)->unpool, p, y, switches, x, threads);
}

fc_status fc_max_unpool_backward(const fc_pool_problem *p, const void *dx, const void *switches, void *dy, int threads)
{
    return follow_switches(fc_kernels_of(p->dtype)->unpool_backward, p, dx, switches, dy, threads);
}

fc_status fc_stochastic_pool(const fc_pool_problem *p, const void *x, void *y, void *switches, uint64_t seed,
                             int threads)
{
    if (!windows_valid(p) || too_narrow(p))
        return FC_INVALID;
    pool_call call = {.job = {p, x, y, switches, fc_mix(seed), false},
                      .kernel = fc_kernels_of(p->dtype)->stochastic_pool[p->layout]};
    pool_rows(&call, p->output, threads);
    return FC_OK;
}

fc_status fc_avg_pool(const fc_pool_problem *p, const void *x, void *y, int threads)
{
    if (!windows_valid(p))
        return FC_INVALID;
    pool_call call = {.job = {p, x, y, NULL, 0, false}, .kernel = fc_kernels_of(p->dtype)->avg_pool[p->layout]};
    pool_rows(&call, p->output, threads);
    return FC_OK;
}

fc_status fc_avg_pool_backward(const fc_pool_problem *p, const void *dy, void *dx, int threads)
{
    if (!windows_valid(p))
        return FC_INVALID;
    pool_call call = {.job = {p, dy, dx, NULL, 0, false},
                      .kernel = fc_kernels_of(p->dtype)->avg_pool_backward[p->layout]};
    pool_rows(&call, p->input, threads);
    return FC_OK;
}
