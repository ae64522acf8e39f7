/* sweep.c -- the one form of forward, input gradient and transposed convolution: gather, multiply, put. */
#include "conv.h"

fc_sweep fc_sweep_forward(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    fc_sweep s = {.batch = p->batch,
                  .groups = p->groups,
                  .channels = p->in_channels / p->groups,
                  .filters = p->out_channels / p->groups};
    for (int a = 0; a < 3; a++)
        s.axis[a] = (fc_axis){
            .places = plan->output[a],
            .taps = p->kernel[a],
            .origin = -p->pad_before[a],
            .step = p->stride[a],
            .tap_step = p->dilation[a],
            .input = p->input[a],
            .kernel = p->kernel[a],
            .kernel_step = 1,
            .output = plan->output[a],
            .output_step = 1,
        };
    return s;
}

/* Strides beyond the input leave phases without places: none are counted. */
static ptrdiff_t axis_phases(const fc_conv_problem *p, int a) { return fc_min(p->stride[a], p->input[a]); }

ptrdiff_t fc_sweep_phases(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    return axis_phases(p, 0) * axis_phases(p, 1) * axis_phases(p, 2);
}

/* dx[i] sums w[r] dy[(i + pad - r * dilation) / stride] over the r that divide. For i = phase + j * stride they are every
 * stride / gcd(stride, dilation)-th, and taken from the last to the first they read dy forwards. */
static fc_axis backward_axis(const fc_conv_plan *plan, int a, ptrdiff_t phase)
{
    const fc_conv_problem *p = &plan->problem;
    ptrdiff_t stride = p->stride[a], dilation = p->dilation[a], common = fc_gcd(stride, dilation),
              period = stride / common;
    ptrdiff_t first = 0; /* the first tap that divides */
    while (first < fc_min(period, p->kernel[a]) && (phase + p->pad_before[a] - first * dilation) % stride)
        first++;
    ptrdiff_t taps = first < fc_min(period, p->kernel[a]) ? (p->kernel[a] - 1 - first) / period + 1 : 0;
    ptrdiff_t last = first + (taps - 1) * period;
    return (fc_axis){
        .places = fc_ceil_div(p->input[a] - phase, stride),
        .taps = taps,
        .origin =
            taps ? (phase + p->pad_before[a] - last * dilation) / stride : 0, /* exact, though it may be negative */
        .step = 1,
        .tap_step = dilation / common,
        .input = plan->output[a],
        .kernel = p->kernel[a],
        .kernel_first = last,
        .kernel_step = -period,
        .output = p->input[a],
        .output_first = phase,
        .output_step = stride,
    };
}

fc_sweep fc_sweep_backward_input(const fc_conv_plan *plan, ptrdiff_t phase)
{
    const fc_conv_problem *p = &plan->problem;
    fc_sweep s = {.batch = p->batch,
                  .groups = p->groups,
                  .channels = p->out_channels / p->groups,
                  .filters = p->in_channels / p->groups};
    for (int a = 2; a >= 0; a--) {
        s.axis[a] = backward_axis(plan, a, phase % axis_phases(p, a));
        phase /= axis_phases(p, a);
    }
    return s;
}

ptrdiff_t fc_depth_block(ptrdiff_t channels, ptrdiff_t taps, ptrdiff_t *blocks)
{
    if (taps == 0) { /* a phase that no tap reaches: one empty block writes its zeros */
        *blocks = 1;
        return 0;
    }
    if (taps <= FC_DEPTH) {
        ptrdiff_t block = FC_DEPTH / taps;
        block = fc_ceil_div(channels, fc_ceil_div(channels, block));
        *blocks = fc_ceil_div(channels, block);
        return block * taps;
    }
    ptrdiff_t depth = channels * taps, block = fc_ceil_div(depth, fc_ceil_div(depth, FC_DEPTH));
    *blocks = fc_ceil_div(depth, block);
    return block;
}
