/* algo_im2col.c -- convolution as a matrix product whose image matrix is never whole: panels of it are packed as they are needed. Does every
 * problem, in both layouts. Where windows do not overlap that matrix is but another order of the image, and may be whole. */
#include "conv.h"

#include <math.h>

static const char *decline(const fc_conv_plan *plan)
{
    (void)plan;
    return NULL;
}

/* Of a weight gradient's sums, those beyond so many have left the caches: measured, cycles of each. */
enum { FAR_SUMS = 1 << 20, FAR_CYCLES = 2 };

static double cost_of_panels(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->layout == FC_CHANNELS_FIRST && p->pass != FC_BACKWARD_WEIGHT)
        return fc_planes_cost(plan, true);
    /* vectors of the tile's columns at one a cycle, those without a column included; and the pieces that pixels are copied in */
    const bool last = p->layout == FC_CHANNELS_LAST, turned = last && p->pass == FC_BACKWARD_WEIGHT,
               back = p->pass == FC_BACKWARD_INPUT;
    ptrdiff_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2],
              depth = taps * (back ? p->out_channels : p->in_channels) / p->groups;
    ptrdiff_t filters = (back ? p->in_channels : p->out_channels) / p->groups;
    const bool slim = !last && filters <= plan->kernels->width[FC_SLIM];
    const ptrdiff_t width = plan->kernels->width[slim ? FC_SLIM : FC_NARROW];
    double places = (double)(plan->output[0] * plan->output[1] * plan->output[2]) * (double)(p->batch * p->groups);
    double vectors = (turned ? (double)filters * (double)fc_round_up(depth, width)
                             : (double)depth * (double)fc_round_up(filters, width)) /
                     (double)plan->kernels->lanes;
    const double far =
        p->pass == FC_BACKWARD_WEIGHT ? fmax((double)p->groups * (double)filters * (double)depth - FAR_SUMS, 0) : 0;
    return (fc_sweep_share(plan) * places * (vectors + (last ? 4 * (double)taps : 0)) + far * FAR_CYCLES) /
           FC_NOMINAL_HERTZ;
}

enum { PANELS, PATCHES };

static int way(const fc_conv_plan *plan) { return fc_patches_fit(plan) ? PATCHES : PANELS; }

static double cost(const fc_conv_plan *plan)
{
    return way(plan) == PATCHES ? fc_patches_cost(plan) : cost_of_panels(plan);
}

static size_t workspace(const fc_conv_plan *plan, int threads)
{
    if (plan->way == PATCHES)
        return fc_patches_workspace(plan, threads);
    if (plan->problem.pass == FC_BACKWARD_WEIGHT)
        return fc_weights_workspace(plan, threads);
    return plan->problem.layout == FC_CHANNELS_LAST ? fc_pixels_workspace(plan, threads)
                                                    : fc_planes_workspace(plan, true, threads);
}

static bool sums_bias(const fc_conv_plan *plan)
{
    if (plan->way != PATCHES)
        return fc_weights_sum_bias(plan);
    const fc_conv_plan inner = fc_patches_plan(plan);
    return fc_weights_sum_bias(&inner);
}

static void run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *space, int threads)
{
    if (plan->way == PATCHES)
        fc_patches_run(plan, arrays, space, threads);
    else if (plan->problem.pass == FC_BACKWARD_WEIGHT)
        fc_weights_run(plan, arrays, space, threads);
    else if (plan->problem.layout == FC_CHANNELS_LAST)
        fc_pixels_run(plan, arrays, space, threads);
    else
        fc_planes_run(plan, true, arrays, space, threads);
}

const fc_conv_algorithm fc_algorithm_im2col = {"im2col", decline, cost, workspace, run, sums_bias, way};
