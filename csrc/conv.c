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
    *plan = (fc_conv_plan){.problem = *problem,
                           .limit = limit ? limit : (size_t)64 << 20,
                           .kernels = fc_kernels_of(problem->dtype),
                           .l2 = fc_l2()};
    plan->problem.relu = problem->relu && problem->pass == FC_FORWARD;
    plan->empty = problem->batch == 0;
    if (plan->empty) /* algorithms plan for one image, and are not run */
        plan->problem.batch = 1;
    const fc_status status = check(problem, plan, reason, reason_size);
    plan->apart = status == FC_OK && fc_takes_taps_apart(plan);
    return status;
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
    plan.way = plan.algorithm->way ? plan.algorithm->way(&plan) : 0;
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
    const bool sums = plan->algorithm->sums_bias && arrays->weight;
    if (p->pass == FC_BACKWARD_WEIGHT && arrays->bias && !(sums && plan->algorithm->sums_bias(plan)))
        fc_bias_gradient(plan, arrays->y, arrays->bias, threads);
    if (p->pass != FC_BACKWARD_WEIGHT || arrays->weight)
        plan->algorithm->run(plan, arrays, workspace, threads);
    if (p->pass == FC_BACKWARD_INPUT && arrays->bias)
        fc_bias_add(plan, arrays->bias, arrays->x, threads);
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
