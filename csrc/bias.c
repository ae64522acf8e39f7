/* bias.c -- the bias and its gradient, as far as they are the same for every algorithm. */
#include "conv.h"

/* ---- the gradient: sums of dy over images and places ------------------------------------------------------------- */

static void put_sum(const fc_conv_plan *plan, void *dbias, ptrdiff_t k, double sum)
{
    if (plan->problem.dtype == FC_FLOAT32)
        ((float *)dbias)[k] = (float)sum;
    else
        ((double *)dbias)[k] = sum;
}

void fc_bias_sum(const fc_conv_plan *plan, const void *dy, ptrdiff_t n, double *total)
{
    if (plan->problem.dtype == FC_FLOAT32) {
        float part;
        plan->kernels->sum(dy, n, &part);
        *total += part;
    } else {
        double part;
        plan->kernels->sum(dy, n, &part);
        *total += part;
    }
}

void fc_bias_put(const fc_conv_plan *plan, const double *totals, ptrdiff_t parts, ptrdiff_t pitch, ptrdiff_t first,
                 ptrdiff_t count, void *dbias)
{
    for (ptrdiff_t k = 0; k < count; k++) {
        double sum = 0;
        for (ptrdiff_t part = 0; part < parts; part++)
            sum += totals[part * pitch + k];
        put_sum(plan, dbias, first + k, sum);
    }
}

typedef struct bias_gradient {
    const fc_conv_plan *plan;
    const void *dy;
    void *dbias;
} bias_gradient;

/* Sums in double over the images, so that large batches lose nothing. */
static void bias_channel(void *context, ptrdiff_t k, int worker)
{
    (void)worker;
    const bias_gradient *b = context;
    const fc_conv_problem *p = &b->plan->problem;
    const ptrdiff_t plane = b->plan->output[0] * b->plan->output[1] * b->plan->output[2],
                    element = (ptrdiff_t)fc_size_of(p->dtype);
    double sum = 0;
    for (ptrdiff_t n = 0; n < p->batch; n++)
        fc_bias_sum(b->plan, (const char *)b->dy + (n * p->out_channels + k) * plane * element, plane, &sum);
    put_sum(b->plan, b->dbias, k, sum);
}

/* Channels last: a block of channels at a time, rows in order. */
enum { BIAS_BLOCK = 64 };

static void bias_block(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const bias_gradient *b = context;
    const fc_conv_problem *p = &b->plan->problem;
    ptrdiff_t rows = p->batch * b->plan->output[0] * b->plan->output[1] * b->plan->output[2];
    ptrdiff_t first = index * BIAS_BLOCK, count = fc_min(BIAS_BLOCK, p->out_channels - first);
    double sums[BIAS_BLOCK] = {0};
    for (ptrdiff_t r = 0; r < rows; r++) {
        ptrdiff_t offset = r * p->out_channels + first;
        if (p->dtype == FC_FLOAT32)
            for (ptrdiff_t k = 0; k < count; k++)
                sums[k] += ((const float *)b->dy)[offset + k];
        else
            for (ptrdiff_t k = 0; k < count; k++)
                sums[k] += ((const double *)b->dy)[offset + k];
    }
    for (ptrdiff_t k = 0; k < count; k++)
        put_sum(b->plan, b->dbias, first + k, sums[k]);
}

void fc_bias_gradient(const fc_conv_plan *plan, const void *dy, void *dbias, int threads)
{
    bias_gradient b = {plan, dy, dbias};
    const ptrdiff_t channels = plan->problem.out_channels;
    if (plan->problem.layout == FC_CHANNELS_FIRST)
        fc_parallel(threads, channels, bias_channel, &b);
    else
        fc_parallel(threads, fc_ceil_div(channels, BIAS_BLOCK), bias_block, &b);
}

/* ---- the bias of a transposed convolution ------------------------------------------------------------------------ */

enum { BIAS_TASK = 1 << 15 }; /* elements that are worth a task */

typedef struct bias_addition {
    const fc_conv_plan *plan;
    const char *bias;
    char *x;
    ptrdiff_t length, parts; /* of what lies together: a plane, or all pixels; and tasks for each */
} bias_addition;

static void bias_part(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const bias_addition *b = context;
    const fc_conv_problem *p = &b->plan->problem;
    const bool last = p->layout == FC_CHANNELS_LAST;
    const ptrdiff_t channels = last ? p->in_channels : 1, element = (ptrdiff_t)fc_size_of(p->dtype),
                    unit = channels * element, size = fc_ceil_div(b->length, b->parts), plane = index / b->parts,
                    first = index % b->parts * size, count = fc_min(size, b->length - first);
    const char *from = b->bias + (last ? 0 : plane % p->in_channels * element);
    char *to = b->x + (plane * b->length + first) * unit;
    /* few channels are written out until they fill vectors */
    char block[4096];
    const ptrdiff_t copies = fc_max(1, fc_min(count, (ptrdiff_t)sizeof block / unit));
    if (copies > 1) {
        memcpy(block, from, (size_t)unit);
        for (ptrdiff_t done = 1; done < copies; done *= 2)
            memcpy(block + done * unit, block, (size_t)(fc_min(done, copies - done) * unit));
        from = block;
    }
    for (ptrdiff_t i = 0; i < count; i += copies)
        b->plan->kernels->add(from, to + i * unit, fc_min(copies, count - i) * channels);
}

void fc_bias_add(const fc_conv_plan *plan, const void *bias, void *x, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t plane = p->input[0] * p->input[1] * p->input[2];
    const bool last = p->layout == FC_CHANNELS_LAST;
    const ptrdiff_t planes = last ? 1 : p->batch * p->in_channels, length = last ? p->batch * plane : plane;
    const ptrdiff_t parts = fc_ceil_div(length, fc_max(1, last ? BIAS_TASK / p->in_channels : BIAS_TASK));
    /* parts of the same size, so that none is empty */
    bias_addition b = {plan, bias, x, length, fc_ceil_div(length, fc_ceil_div(length, parts))};
    fc_parallel(threads, planes * b.parts, bias_part, &b);
}
