/* patches.c -- a convolution whose windows do not overlap, channels first, as one of 1x1: the short cuts of residual networks, 1x1 with a
 * stride of 2, and the patches that images are cut into.
 *
 * Each element is read by one place at most, with one tap. What the places read of channel c with tap t becomes plane c * taps + t of an image,
 * and weights are laid out for that already. The input gradient is put back from such planes; what no window sees is zero. */
#include "conv.h"

#include <math.h>

enum {
    LEAST_BYTES = 16 << 10, /* of planes: less are not worth another plan */
    ROUND_BYTES = 8 << 20, /* of planes, at most, unless an image has more: some cache holds them until they are read */
    AHEAD = 32,            /* rows that are fetched before they are read */
    ROW_CYCLES = 10        /* estimated, of a row that is moved; and half a cycle of an element */
};

/* Planes of an image. */
static ptrdiff_t planes_of(const fc_conv_problem *p)
{
    return p->in_channels * p->kernel[0] * p->kernel[1] * p->kernel[2];
}

static ptrdiff_t places_of(const fc_conv_plan *plan) { return plan->output[0] * plan->output[1] * plan->output[2]; }

/* Bytes of so many images' planes, or 0 if they are too many to count. */
static ptrdiff_t bytes_of(const fc_conv_plan *plan, ptrdiff_t images)
{
    ptrdiff_t n = images * (ptrdiff_t)fc_size_of(plan->problem.dtype);
    return fc_multiply(&n, planes_of(&plan->problem)) && fc_multiply(&n, places_of(plan)) && n < PTRDIFF_MAX / 4 ? n
                                                                                                                 : 0;
}

/* Bytes of a row of places. */
static ptrdiff_t row_bytes(const fc_conv_plan *plan)
{
    return fc_round_up(plan->output[2] * (ptrdiff_t)fc_size_of(plan->problem.dtype), FC_ALIGNMENT);
}

/* Images of one round; 0 if there is no room. A weight gradient is a sum over all. */
static ptrdiff_t round_of(const fc_conv_plan *plan)
{
    const ptrdiff_t batch = plan->problem.batch, each = bytes_of(plan, 1), all = bytes_of(plan, batch),
                    most = (ptrdiff_t)(plan->limit / 2) - row_bytes(plan) - FC_ALIGNMENT;
    if (plan->problem.pass == FC_BACKWARD_WEIGHT)
        return all && all <= most ? batch : 0;
    if (!each || each > most)
        return 0;
    const ptrdiff_t images = fc_min(fc_max(fc_min(ROUND_BYTES, most) / each, 1), batch);
    return fc_ceil_div(batch, fc_ceil_div(batch, images));
}

bool fc_patches_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    bool strided = false;
    for (int a = 0; a < 3; a++) {
        if ((p->kernel[a] - 1) * p->dilation[a] >= p->stride[a])
            return false;
        strided = strided || p->stride[a] > 1;
    }
    return strided && p->layout == FC_CHANNELS_FIRST && round_of(plan) * bytes_of(plan, 1) >= LEAST_BYTES;
}

/* The 1x1 problem of so many images. */
static fc_conv_plan plan_of(const fc_conv_plan *plan, ptrdiff_t images)
{
    fc_conv_plan inner = *plan;
    fc_conv_problem *p = &inner.problem;
    inner.limit = plan->limit / 2;
    inner.apart = false;
    p->batch = images;
    p->in_channels = planes_of(&plan->problem);
    for (int a = 0; a < 3; a++) {
        p->input[a] = plan->output[a];
        p->kernel[a] = p->stride[a] = p->dilation[a] = 1;
        p->pad_before[a] = p->pad_after[a] = 0;
    }
    const fc_conv_algorithm *direct = &fc_algorithm_direct, *im2col = &fc_algorithm_im2col;
    inner.algorithm = !direct->decline(&inner) && direct->cost(&inner) < im2col->cost(&inner) ? direct : im2col;
    inner.way = inner.algorithm->way(&inner);
    return inner;
}

fc_conv_plan fc_patches_plan(const fc_conv_plan *plan) { return plan_of(plan, round_of(plan)); }

double fc_patches_cost(const fc_conv_plan *plan)
{
    const fc_conv_plan inner = fc_patches_plan(plan);
    const double images = (double)plan->problem.batch, places = (double)places_of(plan),
                 rows = places / (double)plan->output[2],
                 moved = (places / 2 + ROW_CYCLES * rows) * (double)planes_of(&plan->problem);
    return images / (double)inner.problem.batch * inner.algorithm->cost(&inner) + images * moved / FC_NOMINAL_HERTZ;
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

typedef struct copy {
    const fc_conv_plan *plan;
    char *x, *planes, *zeros; /* zeros: a row of places */
} copy;

/* Where a row of the input lies among those that the places read: the place and the tap, or false. */
static bool find_row(const fc_conv_plan *plan, int a, ptrdiff_t at, ptrdiff_t *place, ptrdiff_t *tap)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t from = at + p->pad_before[a], rest = from % p->stride[a];
    *place = from / p->stride[a];
    *tap = rest / p->dilation[a];
    return rest % p->dilation[a] == 0 && *tap < p->kernel[a] && *place < plan->output[a];
}

/* The windows of a row, of several elements each, lie side by side, from its beginning on. */
static bool side_by_side(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    return p->kernel[2] > 1 && p->kernel[2] == p->stride[2] && p->pad_before[2] == 0 &&
           p->stride[2] * plan->output[2] <= p->input[2];
}

/* A channel of an image: what the places read. */
static void split_channel(void *context, ptrdiff_t channel, int worker)
{
    (void)worker;
    const copy *c = context;
    const fc_conv_plan *plan = c->plan;
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), *in = p->input, *out = plan->output, *k = p->kernel,
                    places = places_of(plan), row = out[2] * element;
    const char *x = c->x + channel * in[0] * in[1] * in[2] * element;
    char *planes = c->planes + channel * k[0] * k[1] * k[2] * places * element;
    for (ptrdiff_t d = 0; d < out[0]; d++)
        for (ptrdiff_t h = 0; h < out[1]; h++)
            for (ptrdiff_t i = 0; i < k[0] * k[1]; i++) {
                const ptrdiff_t deep = d * p->stride[0] + i / k[1] * p->dilation[0] - p->pad_before[0],
                                high = h * p->stride[1] + i % k[1] * p->dilation[1] - p->pad_before[1];
                char *to = planes + i * k[2] * places * element + (d * out[1] + h) * row;
                if (deep < 0 || deep >= in[0] || high < 0 || high >= in[1]) {
                    for (ptrdiff_t t = 0; t < k[2]; t++)
                        memset(to + t * places * element, 0, (size_t)row);
                    continue;
                }
                const char *from = x + (deep * in[1] + high) * in[2] * element;
                for (ptrdiff_t b = 0; b < in[2] * element; b += FC_ALIGNMENT)
                    __builtin_prefetch(from + AHEAD * p->stride[1] * in[2] * element + b);
                if (side_by_side(plan))
                    plan->kernels->split(from, k[2], to, places, out[2]);
                else
                    for (ptrdiff_t t = 0; t < k[2]; t++)
                        fc_stage_row(plan->kernels, element, from, t * p->dilation[2] - p->pad_before[2], p->stride[2],
                                     in[2], to + t * places * element, out[2]);
            }
}

/* The same way back, one row of the input: tap t's at rows + t * pitch. */
static void join_row(const copy *c, const char *rows, ptrdiff_t pitch, char *to)
{
    const fc_conv_plan *plan = c->plan;
    const fc_conv_problem *p = &plan->problem;
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), width = p->input[2], step = p->stride[2],
                    pad = p->pad_before[2];
    const ptrdiff_t n = fc_min(step * plan->output[2], width); /* what lies in a window, if there is no padding */
    const bool every_second = step == 2 && pad == 0 && p->kernel[2] == 1;
    if (side_by_side(plan) || every_second) {
        if (every_second)
            kernels->interleave(rows, c->zeros, to, n);
        else
            kernels->join(rows, pitch / element, step, to, plan->output[2]);
        kernels->zero(to + n * element, width - n);
        return;
    }
    kernels->zero(to, width);
    for (ptrdiff_t t = 0; t < p->kernel[2]; t++, rows += pitch) {
        const ptrdiff_t start = t * p->dilation[2] - pad, first = start < 0 ? fc_ceil_div(-start, step) : 0,
                        last = start < width ? fc_min(fc_ceil_div(width - start, step), plan->output[2]) : 0;
        if (step == 1)
            kernels->copy(rows + first * element, to + (start + first) * element, last - first);
        else if (element == 4)
            for (ptrdiff_t i = first; i < last; i++)
                ((float *)to)[start + i * step] = ((const float *)rows)[i];
        else
            for (ptrdiff_t i = first; i < last; i++)
                ((double *)to)[start + i * step] = ((const double *)rows)[i];
    }
}

static void join_channel(void *context, ptrdiff_t channel, int worker)
{
    (void)worker;
    const copy *c = context;
    const fc_conv_plan *plan = c->plan;
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), *in = p->input, *out = plan->output, *k = p->kernel,
                    places = places_of(plan);
    char *to = c->x + channel * in[0] * in[1] * in[2] * element;
    const char *planes = c->planes + channel * k[0] * k[1] * k[2] * places * element;
    for (ptrdiff_t d = 0; d < in[0]; d++)
        for (ptrdiff_t h = 0; h < in[1]; h++, to += in[2] * element) {
            ptrdiff_t place[2], tap[2];
            if (find_row(plan, 0, d, &place[0], &tap[0]) && find_row(plan, 1, h, &place[1], &tap[1]))
                join_row(c,
                         planes + ((tap[0] * k[1] + tap[1]) * k[2] * places + (place[0] * out[1] + place[1]) * out[2]) *
                                      element,
                         places * element, to);
            else
                plan->kernels->zero(to, in[2]);
        }
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

size_t fc_patches_workspace(const fc_conv_plan *plan, int threads)
{
    const ptrdiff_t images = round_of(plan), rest = plan->problem.batch % images;
    const fc_conv_plan inner = plan_of(plan, images), last = rest ? plan_of(plan, rest) : inner;
    const size_t most = inner.algorithm->workspace(&inner, threads), least = last.algorithm->workspace(&last, threads);
    return (size_t)(fc_round_up(bytes_of(plan, images), FC_ALIGNMENT) + row_bytes(plan)) +
           (most > least ? most : least);
}

void fc_patches_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    fc_conv_plan inner = fc_patches_plan(plan);
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), images = inner.problem.batch,
                    x_image = p->in_channels * p->input[0] * p->input[1] * p->input[2] * element,
                    y_image = p->out_channels * places_of(plan) * element;
    char *space = workspace;
    copy c = {
        .plan = plan, .planes = fc_take(&space, bytes_of(plan, images)), .zeros = fc_take(&space, row_bytes(plan))};
    memset(c.zeros, 0, (size_t)row_bytes(plan));
    fc_conv_arrays of_planes = *arrays;
    of_planes.x = c.planes;
    for (ptrdiff_t n = 0; n < p->batch; n += images) {
        const ptrdiff_t count = fc_min(images, p->batch - n);
        if (count < images)
            inner = plan_of(plan, count);
        c.x = (char *)arrays->x + n * x_image;
        of_planes.y = (char *)arrays->y + n * y_image;
        if (p->pass != FC_BACKWARD_INPUT)
            fc_parallel(threads, count * p->in_channels, split_channel, &c);
        inner.algorithm->run(&inner, &of_planes, space, threads);
        if (p->pass == FC_BACKWARD_INPUT)
            fc_parallel(threads, count * p->in_channels, join_channel, &c);
    }
}
