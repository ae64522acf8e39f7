/* maps.c -- splits activations with parameters, random masks and the squared error into tasks. */
#include "core.h"

#define TASK 32768 /* elements that are worth a task; even, since random numbers come in pairs */

typedef struct map_call {
    fc_parameter_kernel *kernel;
    fc_draw_kernel *draws;
    const fc_kernels *kernels;
    const double *parameters;
    fc_draw draw;
    const char *a, *b;
    char *out;
    ptrdiff_t n;
    size_t size; /* of an element */
    /* squared error */
    char *squares;
    double scale, *sums;
    /* one weight a channel */
    const fc_norm_problem *problem;
    const char *weight;
    ptrdiff_t chunk;
} map_call;

static void map_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const map_call *m = context;
    const size_t offset = (size_t)index * TASK * m->size;
    m->kernel(m->a + offset, m->b + offset, m->out + offset, fc_min(TASK, m->n - index * TASK), m->parameters);
}

fc_status fc_map_elements(fc_map kind, fc_dtype dtype, const void *a, const void *b, void *out, ptrdiff_t n,
                          const double parameters[2], int threads)
{
    if (n < 0 || n > FC_LARGEST || kind < 0 || kind >= FC_MAPS)
        return FC_INVALID;
    map_call call = {.kernel = fc_kernels_of(dtype)->map[kind],
                     .parameters = parameters,
                     .a = a,
                     .b = b,
                     .out = out,
                     .n = n,
                     .size = fc_size_of(dtype)};
    fc_parallel_alike(threads, fc_ceil_div(n, TASK), map_task, &call);
    return FC_OK;
}

/* ---- one weight a channel ----------------------------------------------------------------------------------- */

static void prelu_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const map_call *m = context;
    const fc_norm_problem *p = m->problem;
    const ptrdiff_t length = p->inner == 1 ? p->channels : p->inner, units = m->n / length;
    for (ptrdiff_t unit = index * m->chunk; unit < fc_min(units, (index + 1) * m->chunk); unit++) {
        const size_t offset = (size_t)(unit * length) * m->size;
        if (p->inner == 1) {
            m->kernels->prelu_row(m->a + offset, m->b + offset, m->weight, m->out + offset, length);
            continue;
        }
        const ptrdiff_t c = unit % p->channels;
        const double slope[2] = {m->size == 4 ? (double)((const float *)(const void *)m->weight)[c]
                                              : ((const double *)(const void *)m->weight)[c],
                                 0};
        m->kernel(m->a + offset, m->b + offset, m->out + offset, length, slope);
    }
}

fc_status fc_prelu(const fc_norm_problem *p, const void *a, const void *b, const void *weight, void *out, int threads)
{
    const ptrdiff_t n = fc_norm_elements(p);
    if (n < 0)
        return FC_INVALID;
    if (n == 0)
        return FC_OK;
    if (p->channels == 1) {
        const double slope[2] = {p->dtype == FC_FLOAT32 ? (double)*(const float *)weight : *(const double *)weight, 0};
        return fc_map_elements(FC_LEAKY, p->dtype, a, b, out, n, slope, threads);
    }
    const ptrdiff_t length = p->inner == 1 ? p->channels : p->inner;
    map_call call = {.kernels = fc_kernels_of(p->dtype),
                     .kernel = fc_kernels_of(p->dtype)->map[FC_LEAKY],
                     .a = a,
                     .b = b,
                     .out = out,
                     .n = n,
                     .size = fc_size_of(p->dtype),
                     .problem = p,
                     .weight = weight,
                     .chunk = fc_max(1, TASK / length)};
    fc_parallel_alike(threads, fc_ceil_div(n / length, call.chunk), prelu_task, &call);
    return FC_OK;
}

/* ---- random masks --------------------------------------------------------------------------------------------- */

static void draw_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const map_call *m = context;
    const size_t offset = (size_t)index * TASK * m->size;
    m->draws(m->a + offset, m->b + offset, m->out + offset, fc_min(TASK, m->n - index * TASK), &m->draw,
             (uint64_t)index * TASK);
}

static fc_status draw(map_call *call, fc_dtype dtype, int threads)
{
    if (call->n < 0 || call->n > FC_LARGEST)
        return FC_INVALID;
    call->size = fc_size_of(dtype);
    fc_parallel_alike(threads, fc_ceil_div(call->n, TASK), draw_task, call);
    return FC_OK;
}

fc_status fc_dropout(fc_dtype dtype, const void *a, void *out, ptrdiff_t n, double p, uint64_t seed, int threads)
{
    if (!(p >= 0 && p <= 1))
        return FC_INVALID;
    const double cut = p * 0x1p32 + 0.5; /* from 2^32 on only the largest number is kept, and for p = 1 times 0 */
    map_call call = {.draws = fc_kernels_of(dtype)->dropout, .a = a, .b = a, .out = out, .n = n};
    call.draw = (fc_draw){.key = fc_mix(seed), .high = p < 1 ? 1 / (1 - p) : 0};
    call.draw.threshold = cut < 0x1p32 ? (uint32_t)cut : UINT32_MAX;
    return draw(&call, dtype, threads);
}

fc_status fc_rrelu(fc_dtype dtype, const void *a, const void *b, void *out, ptrdiff_t n, double low, double high,
                   uint64_t seed, int threads)
{
    map_call call = {.draws = fc_kernels_of(dtype)->rrelu, .a = a, .b = b, .out = out, .n = n};
    call.draw = (fc_draw){.key = fc_mix(seed), .low = low, .high = high};
    return draw(&call, dtype, threads);
}

/* ---- squared error -------------------------------------------------------------------------------------------- */

static void error_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const map_call *m = context;
    const size_t offset = (size_t)index * TASK * m->size;
    m->sums[index] =
        m->kernels->squared_error(m->a + offset, m->b + offset, m->squares ? m->squares + offset : NULL,
                                  m->out ? m->out + offset : NULL, fc_min(TASK, m->n - index * TASK), m->scale);
}

fc_status fc_squared_error(fc_dtype dtype, const void *a, const void *b, ptrdiff_t n, double scale, double *sum,
                           void *squares, void *slopes, int threads)
{
    if (n < 0 || n > FC_LARGEST)
        return FC_INVALID;
    const ptrdiff_t tasks = fc_ceil_div(n, TASK);
    map_call call = {.kernels = fc_kernels_of(dtype), .a = a, .b = b, .out = slopes, .n = n, .size = fc_size_of(dtype)};
    call.squares = squares;
    call.scale = scale;
    call.sums = fc_memory_acquire((size_t)(tasks + 1) * sizeof(double));
    if (call.sums == NULL)
        return FC_NOMEM;
    fc_parallel_alike(threads, tasks, error_task, &call);
    *sum = 0;
    for (ptrdiff_t i = 0; i < tasks; i++)
        *sum += call.sums[i];
    fc_memory_release(call.sums);
    return FC_OK;
}
