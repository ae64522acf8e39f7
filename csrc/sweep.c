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

fc_sweep fc_sweep_in_a_row(const fc_sweep *sweep)
{
    fc_sweep s = *sweep;
    bool dense = fc_sweep_in_place(sweep);
    for (int a = 0; a < 3; a++)
        dense = dense && s.axis[a].kernel == 1 && s.axis[a].places == s.axis[a].output;
    for (int a = 0; dense && a < 2; a++) {
        s.axis[2].places *= s.axis[a].places;
        s.axis[a].places = s.axis[a].input = s.axis[a].output = 1;
    }
    if (dense)
        s.axis[2].input = s.axis[2].output = s.axis[2].places;
    return s;
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

enum {
    CUT_TAPS = 7,     /* most along an axis, where taps are taken apart */
    CUT_PERCENT = 80, /* of the products lie in the input, at most */
    CUT_ROW = 16,     /* places of a row, least, channels first */
    CUT_CHANNELS = 96 /* of a group, least */
};

/* The places that have a tap in the input; they may be none. */
static ptrdiff_t first_place(const fc_axis *ax, ptrdiff_t tap) { return fc_max(0, -(ax->origin + tap * ax->tap_step)); }
static ptrdiff_t count_places(const fc_axis *ax, ptrdiff_t tap)
{
    return fc_max(0, fc_min(ax->places, ax->input - ax->origin - tap * ax->tap_step) - first_place(ax, tap));
}

/* The tap that every place has in the input; -1 if there is none. */
static ptrdiff_t full_tap(const fc_axis *ax)
{
    for (ptrdiff_t tap = 0; tap < ax->taps; tap++)
        if (count_places(ax, tap) == ax->places)
            return tap;
    return -1;
}

/* How many taps any place has in the input; and the n-th of these, beginning with the one that all have. */
static ptrdiff_t count_taps(const fc_axis *ax)
{
    ptrdiff_t count = 0;
    for (ptrdiff_t tap = 0; tap < ax->taps; tap++)
        count += count_places(ax, tap) > 0;
    return count;
}

static ptrdiff_t nth_tap(const fc_axis *ax, ptrdiff_t n)
{
    ptrdiff_t tap = full_tap(ax);
    while (n > 0) {
        tap = (tap + 1) % ax->taps;
        n -= count_places(ax, tap) > 0;
    }
    return tap;
}

static fc_sweep whole_sweep(const fc_conv_plan *plan)
{
    return plan->problem.pass == FC_BACKWARD_INPUT ? fc_sweep_backward_input(plan, 0) : fc_sweep_forward(plan);
}

static double share_of(const fc_axis *ax)
{
    double inside = 0;
    for (ptrdiff_t tap = 0; tap < ax->taps; tap++)
        inside += (double)count_places(ax, tap);
    return inside / (double)ax->taps / (double)ax->places;
}

static ptrdiff_t tap_bytes(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    return p->in_channels / p->groups * p->out_channels * (ptrdiff_t)fc_size_of(p->dtype);
}

bool fc_takes_taps_apart(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    if ((p->pass == FC_BACKWARD_WEIGHT && p->layout == FC_CHANNELS_LAST) || plan->empty || taps == 1)
        return false;
    for (int a = 0; a < 3; a++)
        if (p->stride[a] != 1 || p->kernel[a] > CUT_TAPS || plan->output[a] == 0)
            return false;
    if ((size_t)(tap_bytes(plan) * taps) > plan->limit / 2) /* they are copied, and half is left to compute in */
        return false;
    const fc_sweep s = whole_sweep(plan);
    double share = 1;
    for (int a = 0; a < 3; a++) {
        if (full_tap(&s.axis[a]) < 0)
            return false;
        share *= share_of(&s.axis[a]);
    }
    if (count_taps(&s.axis[0]) * count_taps(&s.axis[1]) * count_taps(&s.axis[2]) == 1)
        return true;
    /* measured: short rows of planes leave tiles in pieces, and few channels sum less than it takes to add to the output */
    const bool pays = s.channels >= CUT_CHANNELS && (p->layout == FC_CHANNELS_LAST || s.axis[2].places >= CUT_ROW);
    return pays && share * 100 <= CUT_PERCENT;
}

ptrdiff_t fc_sweep_parts(const fc_conv_plan *plan)
{
    if (plan->apart) {
        const fc_sweep s = whole_sweep(plan);
        return count_taps(&s.axis[0]) * count_taps(&s.axis[1]) * count_taps(&s.axis[2]);
    }
    return plan->problem.pass == FC_BACKWARD_INPUT ? fc_sweep_phases(plan) : 1;
}

/* Taps taken apart, the one that writes every place comes first. */
fc_sweep fc_sweep_part(const fc_conv_plan *plan, ptrdiff_t part, ptrdiff_t *weight_offset)
{
    *weight_offset = 0;
    if (!plan->apart)
        return plan->problem.pass == FC_BACKWARD_INPUT ? fc_sweep_backward_input(plan, part) : fc_sweep_forward(plan);
    fc_sweep s = whole_sweep(plan);
    s.apart = true;
    s.accumulate = part > 0;
    ptrdiff_t unit = 1, index = 0;
    for (int a = 2; a >= 0; a--) {
        fc_axis *ax = &s.axis[a];
        const ptrdiff_t tap = nth_tap(ax, part % count_taps(ax)), first = first_place(ax, tap);
        part /= count_taps(ax);
        index += (ax->kernel_first + tap * ax->kernel_step) * unit;
        unit *= ax->kernel;
        ax->places = count_places(ax, tap);
        ax->origin += first + tap * ax->tap_step;
        ax->output_first += first;
        ax->taps = ax->kernel = 1;
        ax->kernel_first = 0;
    }
    *weight_offset = index * tap_bytes(plan);
    return s;
}

ptrdiff_t fc_part_tap(const fc_conv_plan *plan, ptrdiff_t weight_offset) { return weight_offset / tap_bytes(plan); }

size_t fc_part_weight_bytes(const fc_conv_plan *plan)
{
    const ptrdiff_t *kernel = plan->problem.kernel;
    if (!plan->apart)
        return 0;
    return (size_t)fc_round_up(kernel[0] * kernel[1] * kernel[2] * tap_bytes(plan), FC_ALIGNMENT);
}

size_t fc_part_limit(const fc_conv_plan *plan) { return plan->limit - fc_part_weight_bytes(plan); }

typedef struct sorted {
    const fc_conv_plan *plan;
    const char *from;
    char *to;
    bool back;      /* from (taps, out_channels, in_channels / groups) */
    ptrdiff_t only; /* the tap that is taken; -1: all */
    bool past;      /* the caches: all threads read them next */
} sorted;

enum { SORTED = 16 }; /* filters of a task */

static void sort_filters(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const sorted *s = context;
    const fc_conv_problem *p = &s->plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), channels = p->in_channels / p->groups,
                    taps = p->kernel[0] * p->kernel[1] * p->kernel[2];
    for (ptrdiff_t f = index * SORTED; f < fc_min((index + 1) * SORTED, p->out_channels); f++) {
        const ptrdiff_t filter = f * channels * taps * element, row = f * channels * element;
        if (s->back)
            s->plan->kernels->transpose(s->from + row, p->out_channels * channels, s->to + filter, taps, taps,
                                        channels);
        else if (s->only >= 0) /* one tap is all that lies in the input */
            s->plan->kernels->gather(s->from + filter + s->only * element, taps,
                                     s->to + s->only * tap_bytes(s->plan) + row, channels);
        else if (taps == 9 && channels >= s->plan->kernels->lanes)
            s->plan->kernels->nines_apart(s->from + filter, channels, s->to + row, p->out_channels * channels, s->past);
        else
            s->plan->kernels->transpose(s->from + filter, taps, s->to + row, p->out_channels * channels, channels,
                                        taps);
    }
}

static const void *part_weights(const fc_conv_plan *plan, const void *weight, void *space, int threads)
{
    if (!plan->apart)
        return weight;
    sorted s = {.plan = plan, .from = weight, .to = space, .only = -1, .past = fc_threads_apart(threads)};
    if (fc_sweep_parts(plan) == 1) {
        ptrdiff_t offset;
        fc_sweep_part(plan, 0, &offset);
        s.only = fc_part_tap(plan, offset);
    }
    fc_parallel(threads, fc_ceil_div(plan->problem.out_channels, SORTED), sort_filters, &s);
    return space;
}

void fc_part_weights_back(const fc_conv_plan *plan, const void *space, void *dweight, int threads)
{
    sorted s = {.plan = plan, .from = space, .to = dweight, .back = true, .only = -1};
    fc_parallel(threads, fc_ceil_div(plan->problem.out_channels, SORTED), sort_filters, &s);
}

double fc_sweep_share(const fc_conv_plan *plan)
{
    if (!plan->apart)
        return 1;
    const fc_sweep s = whole_sweep(plan);
    return share_of(&s.axis[0]) * share_of(&s.axis[1]) * share_of(&s.axis[2]);
}

void fc_parts_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads,
                  fc_part_run *run, bool packed)
{
    const fc_conv_problem *p = &plan->problem;
    const bool forward = p->pass == FC_FORWARD;
    const ptrdiff_t parts = fc_sweep_parts(plan);
    const char *weights = part_weights(plan, arrays->weight, workspace, threads);
    for (ptrdiff_t i = 0; i < parts; i++) {
        ptrdiff_t offset;
        const fc_sweep s = fc_sweep_part(plan, i, &offset);
        const fc_part part = {.plan = plan,
                              .sweep = &s,
                              .packed = packed,
                              .in = forward ? arrays->x : arrays->y,
                              .weight = weights + offset,
                              .bias = forward && i == 0 ? arrays->bias : NULL,
                              .out = forward ? arrays->y : arrays->x,
                              .workspace = (char *)workspace + fc_part_weight_bytes(plan)};
        run(&part, threads);
    }
    if (p->relu && plan->apart) /* when all is added up */
        (void)fc_activate(FC_RELU, p->dtype, arrays->y, arrays->y,
                          p->batch * p->out_channels * plan->output[0] * plan->output[1] * plan->output[2], threads);
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
