/* algo_im2col.c -- convolution as a matrix product whose image matrix is never whole: panels of it are packed as they are needed. Does every
 * problem, in both layouts. */
#include "conv.h"

static const char *decline(const fc_conv_plan *plan)
{
    (void)plan;
    return NULL;
}

static double cost(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->layout == FC_CHANNELS_FIRST && p->pass != FC_BACKWARD_WEIGHT)
        return fc_planes_cost(plan, true);
    double products = 1; /* nothing to weigh it against: its multiply-adds, at one vector a cycle */
    for (int a = 0; a < 3; a++)
        products *= (double)plan->output[a] * (double)p->kernel[a];
    products *= (double)p->batch * (double)p->out_channels * (double)(p->in_channels / p->groups);
    return products / (double)plan->kernels->lanes / FC_NOMINAL_HERTZ;
}

static size_t workspace(const fc_conv_plan *plan, int threads)
{
    if (plan->problem.pass == FC_BACKWARD_WEIGHT)
        return fc_weights_workspace(plan, threads);
    return plan->problem.layout == FC_CHANNELS_LAST ? fc_pixels_workspace(plan, threads)
                                                    : fc_planes_workspace(plan, true, threads);
}

static void run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *space, int threads)
{
    if (plan->problem.pass == FC_BACKWARD_WEIGHT)
        fc_weights_run(plan, arrays, space, threads);
    else if (plan->problem.layout == FC_CHANNELS_LAST)
        fc_pixels_run(plan, arrays, space, threads);
    else
        fc_planes_run(plan, true, arrays, space, threads);
}

const fc_conv_algorithm fc_algorithm_im2col = {"im2col", decline, cost, workspace, run};
