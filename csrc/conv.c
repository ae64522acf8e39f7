/* conv.c -- checks a problem, walks the list of algorithms, makes a plan, runs it. */
#include "conv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* In order of preference where costs are equal; the reference, which accepts everything, is last. */
static const fc_conv_algorithm *const algorithms[] = {&fc_algorithm_depthwise, &fc_algorithm_winograd,
                                                      &fc_algorithm_direct, &fc_algorithm_im2col,
                                                      &fc_algorithm_reference};
enum { ALGORITHMS = sizeof algorithms / sizeof algorithms[0] };

/* A thread must have this much to do, or waking it costs more than it brings. */
#define THREAD_SECONDS 20e-6

ptrdiff_t fc_conv_output_length(ptrdiff_t input, ptrdiff_t kernel, ptrdiff_t stride, ptrdiff_t dilation,
                                ptrdiff_t pad_before, ptrdiff_t pad_after)
{
    if (input < 1 || kernel < 1 || stride < 1 || dilation < 1 || pad_before < 0 || pad_after < 0 ||
        input > FC_LARGEST || kernel > FC_LARGEST || stride > FC_LARGEST || dilation > FC_LARGEST ||
        pad_before > FC_LARGEST || pad_after > FC_LARGEST)
        return -1;
    ptrdiff_t span = kernel - 1;
    if (!fc_multiply(&span, dilation))
        return -1;
    ptrdiff_t room = input + pad_before + pad_after - span - 1;
    return room < 0 ? -1 : room / stride + 1;
}

static fc_status check(const fc_conv_problem *p, fc_conv_plan *plan, char *reason, size_t reason_size)
{
#define REFUSE(...) return snprintf(reason, reason_size, __VA_ARGS__), FC_INVALID
    if (p->batch < 0)
        REFUSE("a negative batch");
    if (p->in_channels < 1 || p->out_channels < 1 || p->groups < 1)
        REFUSE("fewer than one channel or group");
    if (p->in_channels % p->groups || p->out_channels % p->groups)
        REFUSE("channels are not divisible by groups");
    ptrdiff_t x = fc_max(p->batch, 1), y = x, weight = p->in_channels / p->groups,
              element = (ptrdiff_t)fc_size_of(p->dtype);
    bool fits =
        fc_multiply(&x, p->in_channels) && fc_multiply(&y, p->out_channels) && fc_multiply(&weight, p->out_channels);
    for (int a = 0; a < 3; a++) {
        plan->output[a] = fc_conv_output_length(p->input[a], p->kernel[a], p->stride[a], p->dilation[a],
                                                p->pad_before[a], p->pad_after[a]);
        if (plan->output[a] < 1)
            REFUSE("the kernel does not fit into the padded input");
        fits = fits && fc_multiply(&x, p->input[a]) && fc_multiply(&y, plan->output[a]) &&
               fc_multiply(&weight, p->kernel[a]);
    }
    if (!fits || !fc_multiply(&x, element) || !fc_multiply(&y, element) || !fc_multiply(&weight, element))
        REFUSE("the arrays would be larger than memory can address");
#undef REFUSE
    return FC_OK;
}

static fc_status prepare(const fc_conv_problem *problem, size_t limit, fc_conv_plan *plan, char *reason,
                         size_t reason_size)
{
    *plan = (fc_conv_plan){
        .problem = *problem, .limit = limit ? limit : (size_t)64 << 20, .kernels = fc_kernels_of(problem->dtype)};
    plan->problem.relu = problem->relu && problem->pass == FC_FORWARD;
    plan->empty = problem->batch == 0;
    if (plan->empty) /* algorithms plan for one image, and are not run */
        plan->problem.batch = 1;
    return check(problem, plan, reason, reason_size);
}

static const fc_conv_algorithm *cheapest(const fc_conv_plan *plan)
{
    const fc_conv_algorithm *best = &fc_algorithm_reference;
    double best_cost = INFINITY;
    for (int i = 0; i < ALGORITHMS; i++) {
        if (algorithms[i]->decline(plan))
            continue;
        double cost = algorithms[i]->cost(plan);
        if (cost < best_cost) {
            best = algorithms[i];
            best_cost = cost;
        }
    }
    return best;
}

fc_status fc_conv_plan_create(const fc_conv_problem *problem, const char *algorithm, size_t workspace_limit,
                              fc_conv_plan **plan_out, char *reason, size_t reason_size)
{
    char unread[1];
    if (!reason || !reason_size) {
        reason = unread;
        reason_size = sizeof unread;
    }
    reason[0] = 0;
    *plan_out = NULL;
    fc_conv_plan plan;
    fc_status status = prepare(problem, workspace_limit, &plan, reason, reason_size);
    if (status != FC_OK)
        return status;
    if (!algorithm || !strcmp(algorithm, "auto")) {
        plan.algorithm = cheapest(&plan);
    } else {
        for (int i = 0; i < ALGORITHMS; i++)
            if (!strcmp(algorithm, algorithms[i]->name))
                plan.algorithm = algorithms[i];
        if (!plan.algorithm) {
            snprintf(reason, reason_size, "unknown algorithm");
            return FC_INVALID;
        }
        const char *declined = plan.algorithm->decline(&plan);
        if (declined) {
            snprintf(reason, reason_size, "%s", declined);
            return FC_UNSUPPORTED;
        }
    }
    double estimate = plan.algorithm->cost(&plan) / THREAD_SECONDS;
    plan.threads = estimate < 1024 ? 1 + (int)estimate : 1024;
    *plan_out = malloc(sizeof plan);
    if (!*plan_out)
        return FC_NOMEM;
    **plan_out = plan;
    return FC_OK;
}

void fc_conv_plan_destroy(fc_conv_plan *plan) { free(plan); }

const char *fc_conv_plan_algorithm(const fc_conv_plan *plan) { return plan->algorithm->name; }

ptrdiff_t fc_conv_plan_elements(const fc_conv_plan *plan, int array)
{
    const fc_conv_problem *p = &plan->problem;
    switch (array) {
    case 0:
        return plan->empty ? 0 : p->batch * p->in_channels * p->input[0] * p->input[1] * p->input[2];
    case 1:
        return p->out_channels * (p->in_channels / p->groups) * p->kernel[0] * p->kernel[1] * p->kernel[2];
    case 2:
        return p->pass == FC_BACKWARD_INPUT ? p->in_channels : p->out_channels;
    default:
        return plan->empty ? 0 : p->batch * p->out_channels * plan->output[0] * plan->output[1] * plan->output[2];
    }
}

/* What a plan runs on: an algorithm may cut its work, and so its workspace, by it. */
static int threads_of(const fc_conv_plan *plan, int threads)
{
    return threads < plan->threads ? threads : plan->threads;
}

size_t fc_conv_plan_workspace(const fc_conv_plan *plan, int threads)
{
    return plan->empty ? 0 : plan->algorithm->workspace(plan, threads_of(plan, threads));
}

/* ---- the bias gradient, the same for every algorithm ------------------------------------------------------- */

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
    ptrdiff_t plane = b->plan->output[0] * b->plan->output[1] * b->plan->output[2];
    double sum = 0;
    for (ptrdiff_t n = 0; n < p->batch; n++) {
        ptrdiff_t offset = (n * p->out_channels + k) * plane;
        if (p->dtype == FC_FLOAT32) {
            float part;
            b->plan->kernels->sum((const float *)b->dy + offset, plane, &part);
            sum += part;
        } else {
            double part;
            b->plan->kernels->sum((const double *)b->dy + offset, plane, &part);
            sum += part;
        }
    }
    if (p->dtype == FC_FLOAT32)
        ((float *)b->dbias)[k] = (float)sum;
    else
        ((double *)b->dbias)[k] = sum;
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
    for (ptrdiff_t k = 0; k < count; k++) {
        if (p->dtype == FC_FLOAT32)
            ((float *)b->dbias)[first + k] = (float)sums[k];
        else
            ((double *)b->dbias)[first + k] = sums[k];
    }
}

/* ---- the bias of a transposed convolution, the same for every algorithm ---------------------------------------- */

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

static void add_bias(const fc_conv_plan *plan, const fc_conv_arrays *arrays, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t plane = p->input[0] * p->input[1] * p->input[2];
    const bool last = p->layout == FC_CHANNELS_LAST;
    const ptrdiff_t planes = last ? 1 : p->batch * p->in_channels, length = last ? p->batch * plane : plane;
    const ptrdiff_t parts = fc_ceil_div(length, fc_max(1, last ? BIAS_TASK / p->in_channels : BIAS_TASK));
    /* parts of the same size, so that none is empty */
    bias_addition b = {plan, arrays->bias, arrays->x, length, fc_ceil_div(length, fc_ceil_div(length, parts))};
    fc_parallel(threads, planes * b.parts, bias_part, &b);
}

void fc_conv_plan_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    threads = threads_of(plan, threads);
    if (plan->empty) { /* an empty sum where there is anything to write */
        if (p->pass == FC_BACKWARD_WEIGHT) {
            if (arrays->weight)
                memset(arrays->weight, 0, (size_t)fc_conv_plan_elements(plan, 1) * fc_size_of(p->dtype));
            if (arrays->bias)
                memset(arrays->bias, 0, (size_t)p->out_channels * fc_size_of(p->dtype));
        }
        return;
    }
    if (p->pass == FC_BACKWARD_WEIGHT && arrays->bias) {
        bias_gradient b = {plan, arrays->y, arrays->bias};
        if (p->layout == FC_CHANNELS_FIRST)
            fc_parallel(threads, p->out_channels, bias_channel, &b);
        else
            fc_parallel(threads, fc_ceil_div(p->out_channels, BIAS_BLOCK), bias_block, &b);
    }
    if (p->pass != FC_BACKWARD_WEIGHT || arrays->weight)
        plan->algorithm->run(plan, arrays, workspace, threads);
    if (p->pass == FC_BACKWARD_INPUT && arrays->bias)
        add_bias(plan, arrays, threads);
}

const char *fc_conv_algorithm_name(int index)
{
    return index >= 0 && index < ALGORITHMS ? algorithms[index]->name : NULL;
}

fc_status fc_conv_algorithm_examine(int index, const fc_conv_problem *problem, const char **declined, double *cost)
{
    char reason[1];
    fc_conv_plan plan;
    if (index < 0 || index >= ALGORITHMS)
        return FC_INVALID;
    fc_status status = prepare(problem, 0, &plan, reason, sizeof reason);
    if (status != FC_OK)
        return status;
    *declined = algorithms[index]->decline(&plan);
    *cost = *declined ? INFINITY : algorithms[index]->cost(&plan);
    return FC_OK;
}
