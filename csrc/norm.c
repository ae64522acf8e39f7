/* norm.c -- splits batch normalization and local response normalization into tasks. */
#include "core.h"

#include <math.h>

#define TASK 32768                      /* elements that are worth a task */
#define SHORT_RUN 2048                  /* bytes */
#define HELD ((ptrdiff_t)512 * 1024)    /* of channels that are summed up together: still in cache then */
#define CACHED ((ptrdiff_t)1024 * 1024) /* bytes of a channel that are still in cache when they are read again */
#define SEGMENT 65536                   /* elements of a channel that are summed up by one task */

ptrdiff_t fc_norm_elements(const fc_norm_problem *p)
{
    ptrdiff_t n = p->channels;
    if (p->outer < 0 || p->channels < 0 || p->inner < 0 || __builtin_mul_overflow(n, p->outer, &n) ||
        __builtin_mul_overflow(n, p->inner, &n) || n > FC_LARGEST / 8 || p->channels > FC_LARGEST / 64)
        return -1;
    return n;
}

static double get(fc_dtype dtype, const void *array, ptrdiff_t i)
{
    return dtype == FC_FLOAT32 ? (double)((const float *)array)[i] : ((const double *)array)[i];
}

static void put(fc_dtype dtype, void *array, ptrdiff_t i, double value)
{
    if (dtype == FC_FLOAT32)
        ((float *)array)[i] = (float)value;
    else
        ((double *)array)[i] = value;
}

/* ---- batch normalization ---------------------------------------------------------------------------------- */

enum { MEAN, SCALE, SHIFT, CONSTANT, SLOPE, PARAMETERS };
enum { RUNS, ROWS, PLANES }; /* what a kernel is for */

typedef struct norm_call {
    const fc_batch_norm *norm;
    const fc_kernels *kernels;
    size_t size; /* of an element */
    const char *x, *dy;
    char *y;
    ptrdiff_t x_step; /* elements from one outer element of x to the next */
    void *dweight, *dbias;
    char *parameters[PARAMETERS]; /* (channels), with a vector to spare */
    double *partial;              /* [part][2][channels], or channels first [channel][part][2] */
    bool last;                    /* channels last */
    bool streamed;                /* y goes past the caches */
    bool at_once;                 /* a gradient that does not depend on the sums: of inference */
    ptrdiff_t rows, columns;      /* a part's outer elements and, channels first, inner ones */
    ptrdiff_t down, across;       /* parts */
    ptrdiff_t chunk;              /* a task's channels, or rows, or planes */
} norm_call;

/* The runs first .. first+runs-1 of one channel, from `column` on; channels last, of all channels. */
static fc_norm_job job_of(const norm_call *call, ptrdiff_t channel, ptrdiff_t first, ptrdiff_t runs, ptrdiff_t column,
                          ptrdiff_t length)
{
    const fc_norm_problem *p = &call->norm->problem;
    const ptrdiff_t within = call->last ? 0 : channel * p->inner + column, step = p->channels * p->inner;
    const size_t offset = (size_t)(first * step + within) * call->size,
                 own = call->last ? 0 : (size_t)channel * call->size;
    const char *x = call->x + (size_t)(first * call->x_step + within) * call->size;
    fc_norm_job job = {
        .x = x,
        .dy = call->dy ? call->dy + offset : NULL,
        .y = call->y ? call->y + offset : NULL,
        .pitch = step,
        .x_pitch = call->x_step,
        .runs = runs,
        .length = call->last ? p->channels : length,
        .end = call->x_step == step ? call->x + (size_t)(p->outer * step) * call->size : x,
        .mean = call->parameters[MEAN] + own,
        .scale = call->parameters[SCALE] + own,
        .shift = call->parameters[SHIFT] + own,
        .constant = call->parameters[CONSTANT] + own,
        .slope = call->parameters[SLOPE] + own,
        .relu = call->norm->relu,
        .streamed = call->streamed,
    };
    return job;
}

/* What the kernels need of a channel, from its mean and variance. What the mean loses in the kernels' own type goes into
 * the shift. */
static void set_scale(norm_call *call, ptrdiff_t c)
{
    const fc_batch_norm *n = call->norm;
    const fc_dtype dtype = n->problem.dtype;
    const double inverse = 1 / sqrt(n->variance[c] + n->eps);
    const double scale = n->weight ? get(dtype, n->weight, c) * inverse : inverse;
    put(dtype, call->parameters[MEAN], c, n->mean[c]);
    const double lost = n->mean[c] - get(dtype, call->parameters[MEAN], c);
    put(dtype, call->parameters[SCALE], c, scale);
    put(dtype, call->parameters[SHIFT], c, (n->bias ? get(dtype, n->bias, c) : 0) - (lost == lost ? lost * scale : 0));
}

/* The same for its gradient, from the sums of dy and of dy (x - mean). */
static void set_slope(norm_call *call, ptrdiff_t c, double sum, double product)
{
    const fc_batch_norm *n = call->norm;
    const fc_dtype dtype = n->problem.dtype;
    const double inverse = 1 / sqrt(n->variance[c] + n->eps), count = (double)(n->problem.outer * n->problem.inner);
    const double scale = n->weight ? get(dtype, n->weight, c) * inverse : inverse;
    product -= sum * (n->mean[c] - get(dtype, call->parameters[MEAN], c));
    if (call->dbias)
        put(dtype, call->dbias, c, sum);
    if (call->dweight)
        put(dtype, call->dweight, c, product * inverse);
    put(dtype, call->parameters[CONSTANT], c, n->training ? -scale * sum / count : 0);
    put(dtype, call->parameters[SLOPE], c, n->training ? -scale * product * inverse * inverse / count : 0);
}

/* Mean and variance of a channel from its parts; `step` doubles from one part to the next, `apart` within. */
static void set_moments(norm_call *call, ptrdiff_t c, const double *partial, ptrdiff_t step, ptrdiff_t apart)
{
    const fc_norm_problem *p = &call->norm->problem;
    double count = 0, mean = 0, spread = 0;
    for (ptrdiff_t i = 0; i < call->down; i++)
        for (ptrdiff_t j = 0; j < call->across; j++, partial += step) {
            const double n = (double)(fc_min(call->rows, p->outer - i * call->rows) *
                                      (call->last ? 1 : fc_min(call->columns, p->inner - j * call->columns)));
            const double away = partial[0] - mean, total = count + n;
            spread += partial[apart] + away * away * (count * n / total);
            mean += away * (n / total);
            count = total;
        }
    call->norm->mean[c] = mean;
    call->norm->variance[c] = spread / count;
    set_scale(call, c);
}

static void add_products(norm_call *call, ptrdiff_t c, const double *partial, ptrdiff_t step, ptrdiff_t apart)
{
    double sum = 0, product = 0;
    for (ptrdiff_t i = 0; i < call->down * call->across; i++, partial += step) {
        sum += partial[0];
        product += partial[apart];
    }
    set_slope(call, c, sum, product);
}

/* y, or dx, which of inference without a ReLU is dy scaled: x is not read. form: runs, rows or planes. */
static void finish(const norm_call *call, const fc_norm_job *job, int form)
{
    const bool scaled = call->dy && !call->norm->training && !job->relu;
    fc_norm_job own = *job;
    if (scaled) { /* with a mean and a shift of zeros */
        own.x = own.dy;
        own.x_pitch = own.pitch;
        own.mean = own.constant;
        own.shift = own.slope;
    }
    (scaled || !call->dy ? call->kernels->norm_apply : call->kernels->norm_gradient)[form](&own);
}

/* Sums of one part, of one channel or of all; and where the gradient does not wait for the sums, that too, while the part
 * is in cache. */
static void part_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    norm_call *call = context;
    const fc_norm_problem *p = &call->norm->problem;
    const ptrdiff_t parts = call->down * call->across, part = call->last ? index : index % parts;
    const ptrdiff_t first = part / call->across * call->rows, column = part % call->across * call->columns;
    fc_norm_job job = job_of(call, call->last ? 0 : index / parts, first, fc_min(call->rows, p->outer - first), column,
                             fc_min(call->columns, p->inner - column));
    job.sums = call->partial + index * 2 * (call->last ? p->channels : 1);
    (call->dy ? call->kernels->norm_products : call->kernels->norm_moments)[call->last ? ROWS : RUNS](&job);
    if (call->at_once && call->y)
        finish(call, &job, call->last ? ROWS : RUNS);
}

/* What the parts of `chunk` channels come to. */
static void merge_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    norm_call *call = context;
    const ptrdiff_t channels = call->norm->problem.channels, parts = call->down * call->across;
    const ptrdiff_t step = call->last ? 2 * channels : 2, apart = call->last ? channels : 1;
    for (ptrdiff_t c = index * call->chunk; c < fc_min(channels, (index + 1) * call->chunk); c++) {
        const double *partial = call->partial + (call->last ? c : c * parts * 2);
        (call->dy ? add_products : set_moments)(call, c, partial, step, apart);
    }
}

/* `chunk` rows of channels, or planes of one channel each. */
static void apply_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    norm_call *call = context;
    const fc_norm_problem *p = &call->norm->problem;
    ptrdiff_t first = index * call->chunk;
    if (call->last) { /* from the end: what was summed up last is still in cache */
        first = (fc_ceil_div(p->outer, call->chunk) - 1 - index) * call->chunk;
        const fc_norm_job job = job_of(call, 0, first, fc_min(call->chunk, p->outer - first), 0, 0);
        finish(call, &job, ROWS);
        return;
    }
    const ptrdiff_t last = fc_min(p->outer * p->channels, first + call->chunk);
    for (ptrdiff_t plane = first, count; plane < last; plane += count) { /* those of one image */
        count = fc_min(last - plane, p->channels - plane % p->channels);
        const fc_norm_job job = job_of(call, plane % p->channels, plane / p->channels, count, 0, p->inner);
        finish(call, &job, PLANES);
    }
}

/* Whole channels, while they are in cache. */
static void channel_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    norm_call *call = context;
    const fc_norm_problem *p = &call->norm->problem;
    const bool back = call->dy != NULL;
    double sums[2];
    for (ptrdiff_t c = index * call->chunk; c < fc_min(p->channels, (index + 1) * call->chunk); c++) {
        fc_norm_job job = job_of(call, c, 0, p->outer, 0, p->inner);
        job.sums = sums;
        (back ? call->kernels->norm_products : call->kernels->norm_moments)[RUNS](&job);
        (back ? add_products : set_moments)(call, c, sums, 2, 1);
        if (call->y)
            finish(call, &job, RUNS);
    }
}

/* The same where their runs are short: image by image, as the channels lie side by side there. */
static void planes_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    norm_call *call = context;
    const fc_norm_problem *p = &call->norm->problem;
    const bool back = call->dy != NULL;
    const ptrdiff_t first = index * call->chunk, last = fc_min(p->channels, first + call->chunk);
    fc_norm_job job = job_of(call, first, 0, p->outer, 0, p->inner);
    job.sums = call->partial + 2 * first;
    job.planes = last - first;
    (back ? call->kernels->norm_products : call->kernels->norm_moments)[PLANES](&job);
    for (ptrdiff_t c = first; c < last; c++)
        (back ? add_products : set_moments)(call, c, call->partial + 2 * c, 2, 1);
    for (ptrdiff_t n = 0; call->y && n < p->outer; n++) {
        job = job_of(call, first, n, last - first, 0, p->inner);
        finish(call, &job, PLANES);
    }
}

static void run_tasks(norm_call *call, ptrdiff_t total, ptrdiff_t each, fc_task *task, int threads)
{ /* of `total` things of `each` elements */
    call->chunk = fc_max(1, TASK / fc_max(1, each));
    fc_parallel_alike(threads, fc_ceil_div(total, call->chunk), task, call);
}

/* Vectors may go on from the last channels of a row to the first of the next one. */
static void go_on(norm_call *call)
{
    const ptrdiff_t channels = call->norm->problem.channels;
    for (int i = 0; i < PARAMETERS; i++)
        memcpy(call->parameters[i] + (size_t)channels * call->size, call->parameters[i],
               (size_t)fc_min(channels, FC_SLACK) * call->size);
}

static fc_status norm_run(norm_call *call, int threads)
{
    const fc_batch_norm *n = call->norm;
    const fc_norm_problem *p = &n->problem;
    if (fc_norm_elements(p) < 0)
        return FC_INVALID;
    if (fc_norm_elements(p) == 0)
        return FC_OK;
    if (n->x_step && n->x_step < p->channels * p->inner)
        return FC_INVALID;
    const bool backward = call->dy != NULL, sums = backward || n->training;
    call->kernels = fc_kernels_of(p->dtype);
    call->size = fc_size_of(p->dtype);
    call->last = p->inner == 1;
    call->x_step = n->x_step ? n->x_step : p->channels * p->inner;
    call->streamed =
        call->y != call->x && call->y != call->dy && fc_norm_elements(p) >= FC_STREAMED / (ptrdiff_t)call->size;
    const ptrdiff_t each = p->outer * p->inner;
    const bool cached = sums && !call->last && each * (ptrdiff_t)call->size * (backward ? 2 : 1) <= CACHED;
    call->columns = call->last ? 1 : cached ? p->inner : fc_min(p->inner, SEGMENT);
    call->rows = call->last ? fc_round_up(fc_max(1, SEGMENT / p->channels), 64)
                 : cached   ? p->outer
                            : fc_max(1, SEGMENT / call->columns);
    call->down = fc_ceil_div(p->outer, call->rows);
    call->across = fc_ceil_div(p->inner, call->columns);

    const ptrdiff_t pitch = p->channels + FC_SLACK, parts = call->down * call->across;
    const size_t row = fc_round_up(pitch * (ptrdiff_t)call->size, FC_ALIGNMENT);
    const size_t partial = sums ? (size_t)(parts * 2 * p->channels) * sizeof(double) : 0;
    char *space = fc_memory_acquire(row * PARAMETERS + partial);
    if (space == NULL)
        return FC_NOMEM;
    for (int i = 0; i < PARAMETERS; i++) {
        call->parameters[i] = space + (size_t)i * row;
        memset(call->parameters[i] + (size_t)p->channels * call->size, 0, FC_SLACK * call->size);
    }
    call->partial = (double *)(space + row * PARAMETERS);
    if (!n->training || backward)
        for (ptrdiff_t c = 0; c < p->channels; c++)
            set_scale(call, c);

    call->at_once = backward && !n->training && !cached;
    if (call->at_once) {
        memset(call->parameters[CONSTANT], 0, (size_t)p->channels * call->size);
        memset(call->parameters[SLOPE], 0, (size_t)p->channels * call->size);
        if (call->streamed)
            go_on(call);
    }
    if (cached && p->inner * (ptrdiff_t)call->size <= SHORT_RUN) {
        const ptrdiff_t held = HELD / (ptrdiff_t)call->size / (backward ? 2 : 1), tasks = 8;
        call->chunk = fc_max(fc_max(fc_min(held / each, p->channels / tasks), TASK / each), 1);
        fc_parallel_alike(threads, fc_ceil_div(p->channels, call->chunk), planes_task, call);
    } else if (cached) {
        run_tasks(call, p->channels, each, channel_task, threads);
    } else {
        if (sums) {
            fc_parallel_alike(threads, call->last ? parts : parts * p->channels, part_task, call);
            run_tasks(call, p->channels, parts * 4, merge_task, threads);
        }
        if (call->streamed && !call->at_once)
            go_on(call);
        if (call->y && !call->at_once) {
            if (call->last)
                run_tasks(call, p->outer, p->channels, apply_task, threads);
            else
                run_tasks(call, p->outer * p->channels, p->inner, apply_task, threads);
        }
    }
    fc_memory_release(space);
    return FC_OK;
}

fc_status fc_batch_norm_forward(const fc_batch_norm *norm, const void *x, void *y, int threads)
{
    norm_call call = {.norm = norm, .x = x, .y = y};
    return norm_run(&call, threads);
}

fc_status fc_batch_norm_backward(const fc_batch_norm *norm, const void *dy, const void *x, void *dx, void *dweight,
                                 void *dbias, int threads)
{
    norm_call call = {.norm = norm, .x = x, .dy = dy, .y = dx, .dweight = dweight, .dbias = dbias};
    return norm_run(&call, threads);
}

/* ---- averages of whole planes ------------------------------------------------------------------------------- */

typedef struct plane_call {
    void (*kernel)(const void *from, ptrdiff_t planes, ptrdiff_t n, void *to);
    const char *from;
    char *to;
    size_t from_step, to_step; /* bytes of a plane */
    ptrdiff_t planes, n, chunk;
} plane_call;

static void plane_task(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const plane_call *call = context;
    const ptrdiff_t first = index * call->chunk;
    call->kernel(call->from + (size_t)first * call->from_step, fc_min(call->chunk, call->planes - first), call->n,
                 call->to + (size_t)first * call->to_step);
}

static fc_status plane_run(plane_call *call, int threads)
{
    if (call->planes < 0 || call->n < 1 || (call->planes > 0 && call->n > FC_LARGEST / call->planes))
        return FC_INVALID;
    call->chunk = fc_max(1, TASK / call->n);
    fc_parallel_alike(threads, fc_ceil_div(call->planes, call->chunk), plane_task, call);
    return FC_OK;
}

fc_status fc_plane_means(fc_dtype dtype, const void *x, ptrdiff_t planes, ptrdiff_t n, void *y, int threads)
{
    const size_t size = fc_size_of(dtype);
    plane_call call = {.kernel = fc_kernels_of(dtype)->plane_means,
                       .from = x,
                       .to = y,
                       .from_step = (size_t)n * size,
                       .to_step = size,
                       .planes = planes,
                       .n = n};
    return plane_run(&call, threads);
}

fc_status fc_plane_means_backward(fc_dtype dtype, const void *dy, ptrdiff_t planes, ptrdiff_t n, void *dx, int threads)
{
    const size_t size = fc_size_of(dtype);
    plane_call call = {.kernel = fc_kernels_of(dtype)->plane_fill,
                       .from = dy,
                       .to = dx,
                       .from_step = size,
                       .to_step = (size_t)n * size,
                       .planes = planes,
                       .n = n};
    return plane_run(&call, threads);
}

/* ---- local response normalization -------------------------------------------------------------------------- */

typedef struct lrn_call {
    const fc_lrn *lrn;
    fc_lrn_kernel *kernel;
    size_t size;
    const char *x, *dy;
    char *y, *scratch;
    size_t own;     /* bytes of a worker's scratch */
    ptrdiff_t step; /* pixels of a task */
    ptrdiff_t parts;
} lrn_call;

static void lrn_task(void *context, ptrdiff_t index, int worker)
{
    const lrn_call *call = context;
    const fc_lrn *l = call->lrn;
    const fc_norm_problem *p = &l->problem;
    const bool last = p->inner == 1;
    const ptrdiff_t first = index % call->parts * call->step;
    const ptrdiff_t at = last ? first * p->channels : index / call->parts * p->channels * p->inner + first;
    const size_t offset = (size_t)at * call->size;
    const fc_lrn_job job = {
        .x = call->x + offset,
        .dy = call->dy ? call->dy + offset : NULL,
        .y = call->y + offset,
        .channels = p->channels,
        .pitch = p->inner,
        .count = fc_min(call->step, (last ? p->outer : p->inner) - first),
        .before = l->before,
        .after = l->after,
        .alpha = l->alpha,
        .beta = l->beta,
        .k = l->k,
        .scratch = call->scratch + (size_t)worker * call->own,
    };
    call->kernel(&job);
}

static fc_status lrn_run(lrn_call *call, int threads)
{
    fc_lrn lrn = *call->lrn;
    const fc_norm_problem *p = &lrn.problem;
    const ptrdiff_t elements = fc_norm_elements(p);
    if (elements < 0 || lrn.before < 0 || lrn.after < 0)
        return FC_INVALID;
    if (elements == 0)
        return FC_OK;
    lrn.before = fc_min(lrn.before, p->channels - 1); /* beyond there is nothing */
    lrn.after = fc_min(lrn.after, p->channels - 1);
    call->lrn = &lrn;
    call->size = fc_size_of(p->dtype);
    const bool last = p->inner == 1;
    const fc_kernels *kernels = fc_kernels_of(p->dtype);
    call->kernel = (call->dy ? kernels->lrn_backward : kernels->lrn)[last];
    const ptrdiff_t size = lrn.before + lrn.after + 1;
    ptrdiff_t scratch;
    if (last) {
        call->step = fc_max(1, TASK / p->channels);
        call->parts = fc_ceil_div(p->outer, call->step);
        scratch = 3 * (p->channels + size + 2 * FC_SLACK);
    } else { /* as many pixels as leave the window's channels in the first cache */
        call->step = fc_max(64, 16384 / (ptrdiff_t)call->size / (size * (call->dy ? 4 : 2)) / 64 * 64);
        call->step = fc_min(call->step, 1024);
        call->parts = fc_ceil_div(p->inner, call->step);
        scratch = call->dy ? 2 * size * (call->step + FC_SLACK) : 0;
    }
    call->own = (size_t)fc_round_up(scratch * (ptrdiff_t)call->size, FC_ALIGNMENT);
    call->scratch = fc_memory_acquire(call->own * (size_t)threads + FC_ALIGNMENT);
    if (call->scratch == NULL)
        return FC_NOMEM;
    fc_parallel_alike(threads, last ? call->parts : p->outer * call->parts, lrn_task, call);
    fc_memory_release(call->scratch);
    return FC_OK;
}

fc_status fc_lrn_forward(const fc_lrn *lrn, const void *x, void *y, int threads)
{
    lrn_call call = {.lrn = lrn, .x = x, .y = y};
    return lrn_run(&call, threads);
}

fc_status fc_lrn_backward(const fc_lrn *lrn, const void *dy, const void *x, void *dx, int threads)
{
    lrn_call call = {.lrn = lrn, .x = x, .dy = dy, .y = dx};
    return lrn_run(&call, threads);
}
