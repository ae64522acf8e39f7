/* algo_direct.c -- direct convolution, channels first: tiles read the image in place, tap by tap, so that nothing is copied more
 * than once. For few filters, for planes so wide that the few positions computed in vain between rows do not matter, and for planes so small
 * that their places are better taken one by one. */
#include "conv.h"

static const char *decline(const fc_conv_plan *plan)
{
    if (plan->problem.layout == FC_CHANNELS_LAST)
        return "it reads planes, which channels-last arrays do not have";
    if (plan->problem.pass == FC_BACKWARD_WEIGHT)
        return "its weight gradient is the same product as im2col's";
    return NULL;
}

enum { PLANES, POINTS };

static int way(const fc_conv_plan *plan)
{
    return !fc_points_decline(plan) && fc_points_cost(plan) < fc_planes_cost(plan, false) ? POINTS : PLANES;
}

/* Where windows do not overlap, estimates hardly tell this from im2col, which measured 1 to 19 % less (Zen 5, eight layers): it has to be cheaper
 * by as much. */
enum { APART_PERCENT = 115 };

static double cost(const fc_conv_plan *plan)
{
    const double cost = way(plan) == POINTS ? fc_points_cost(plan) : fc_planes_cost(plan, false);
    return fc_patches_fit(plan) ? cost * APART_PERCENT / 100 : cost;
}

static size_t workspace(const fc_conv_plan *plan, int threads)
{
    return plan->way == POINTS ? fc_points_workspace(plan, threads) : fc_planes_workspace(plan, false, threads);
}

static void run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *space, int threads)
{
    if (plan->way == POINTS)
        fc_points_run(plan, arrays, space, threads);
    else
        fc_planes_run(plan, false, arrays, space, threads);
}

const fc_conv_algorithm fc_algorithm_direct = {"direct", decline, cost, workspace, run, NULL, way};
