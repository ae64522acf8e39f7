/* ref.c -- the reference: convolution as the textbook writes it, every sum in double precision and in one order.
 *
 * The last algorithm of the list and the oracle of every test; nobody chooses it for speed. */
#include "conv.h"

/* Element strides of an (N,C,D,H,W) or (N,D,H,W,C) array. */
typedef struct fc_strides {
    ptrdiff_t n, c, axis[3];
} fc_strides;

static fc_strides strides_of(fc_layout layout, ptrdiff_t channels, const ptrdiff_t size[3])
{
    fc_strides s;
    s.c = layout == FC_CHANNELS_FIRST ? size[0] * size[1] * size[2] : 1;
    s.axis[2] = layout == FC_CHANNELS_FIRST ? 1 : channels;
    s.axis[1] = s.axis[2] * size[2];
    s.axis[0] = s.axis[1] * size[1];
    s.n = channels * size[0] * size[1] * size[2];
    return s;
}

static double load(fc_dtype dtype, const void *array, ptrdiff_t i)
{
    return dtype == FC_FLOAT32 ? ((const float *)array)[i] : ((const double *)array)[i];
}

static void store(fc_dtype dtype, void *array, ptrdiff_t i, double value)
{
    if (dtype == FC_FLOAT32)
        ((float *)array)[i] = (float)value;
    else
        ((double *)array)[i] = value;
}

typedef struct reference {
    const fc_conv_plan *plan;
    const fc_conv_arrays *arrays;
    fc_strides x, y;
    ptrdiff_t channels, filters; /* per group */
} reference;

/* Offset into the input for output place o and tap t, or -1 if it lies in the padding. */
static ptrdiff_t input_offset(const reference *r, const ptrdiff_t o[3], const ptrdiff_t t[3])
{
    const fc_conv_problem *p = &r->plan->problem;
    ptrdiff_t offset = 0;
    for (int a = 0; a < 3; a++) {
        ptrdiff_t i = o[a] * p->stride[a] + t[a] * p->dilation[a] - p->pad_before[a];
        if (i < 0 || i >= p->input[a])
            return -1;
        offset += i * r->x.axis[a];
    }
    return offset;
}

static void forward(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const reference *r = context;
    const fc_conv_problem *p = &r->plan->problem;
    const ptrdiff_t *size = r->plan->output, *kernel = p->kernel;
    ptrdiff_t n = index / p->out_channels, k = index % p->out_channels, g = k / r->filters, o[3], t[3];
    for (o[0] = 0; o[0] < size[0]; o[0]++)
        for (o[1] = 0; o[1] < size[1]; o[1]++)
            for (o[2] = 0; o[2] < size[2]; o[2]++) {
                double sum = 0;
                for (ptrdiff_t c = 0; c < r->channels; c++)
                    for (t[0] = 0; t[0] < kernel[0]; t[0]++)
                        for (t[1] = 0; t[1] < kernel[1]; t[1]++)
                            for (t[2] = 0; t[2] < kernel[2]; t[2]++) {
                                ptrdiff_t i = input_offset(r, o, t);
                                ptrdiff_t w =
                                    (((k * r->channels + c) * kernel[0] + t[0]) * kernel[1] + t[1]) * kernel[2] + t[2];
                                if (i >= 0)
                                    sum +=
                                        load(p->dtype, r->arrays->x, n * r->x.n + (g * r->channels + c) * r->x.c + i) *
                                        load(p->dtype, r->arrays->weight, w);
                            }
                if (r->arrays->bias)
                    sum += load(p->dtype, r->arrays->bias, k);
                if (p->relu && sum < 0)
                    sum = 0;
                store(p->dtype, r->arrays->y,
                      n * r->y.n + k * r->y.c + o[0] * r->y.axis[0] + o[1] * r->y.axis[1] + o[2] * r->y.axis[2], sum);
            }
}

/* The output place whose tap t reads input coordinate i, along one axis; -1 if there is none. */
static ptrdiff_t output_place(const fc_conv_plan *plan, int a, ptrdiff_t i, ptrdiff_t t)
{
    const fc_conv_problem *p = &plan->problem;
    ptrdiff_t o = i + p->pad_before[a] - t * p->dilation[a];
    return o < 0 || o % p->stride[a] || o / p->stride[a] >= plan->output[a] ? -1 : o / p->stride[a];
}

static void backward_input(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const reference *r = context;
    const fc_conv_problem *p = &r->plan->problem;
    const ptrdiff_t *kernel = p->kernel;
    ptrdiff_t n = index / p->in_channels, c = index % p->in_channels, g = c / r->channels, i[3], t[3], o[3];
    for (i[0] = 0; i[0] < p->input[0]; i[0]++)
        for (i[1] = 0; i[1] < p->input[1]; i[1]++)
            for (i[2] = 0; i[2] < p->input[2]; i[2]++) {
                double sum = 0;
                for (ptrdiff_t k = g * r->filters; k < (g + 1) * r->filters; k++)
                    for (t[0] = 0; t[0] < kernel[0]; t[0]++)
                        for (t[1] = 0; t[1] < kernel[1]; t[1]++)
                            for (t[2] = 0; t[2] < kernel[2]; t[2]++) {
                                bool inside = true;
                                for (int a = 0; a < 3; a++)
                                    inside = inside && (o[a] = output_place(r->plan, a, i[a], t[a])) >= 0;
                                if (!inside)
                                    continue;
                                ptrdiff_t w =
                                    (((k * r->channels + c % r->channels) * kernel[0] + t[0]) * kernel[1] + t[1]) *
                                        kernel[2] +
                                    t[2];
                                sum += load(p->dtype, r->arrays->weight, w) *
                                       load(p->dtype, r->arrays->y,
                                            n * r->y.n + k * r->y.c + o[0] * r->y.axis[0] + o[1] * r->y.axis[1] +
                                                o[2] * r->y.axis[2]);
                            }
                store(p->dtype, r->arrays->x,
                      n * r->x.n + c * r->x.c + i[0] * r->x.axis[0] + i[1] * r->x.axis[1] + i[2] * r->x.axis[2], sum);
            }
}

static void backward_weight(void *context, ptrdiff_t index, int worker)
{
    (void)worker;
    const reference *r = context;
    const fc_conv_problem *p = &r->plan->problem;
    const ptrdiff_t *size = r->plan->output, *kernel = p->kernel;
    ptrdiff_t k = index / r->channels, c = index % r->channels, g = k / r->filters, o[3], t[3], w = 0;
    for (t[0] = 0; t[0] < kernel[0]; t[0]++)
        for (t[1] = 0; t[1] < kernel[1]; t[1]++)
            for (t[2] = 0; t[2] < kernel[2]; t[2]++, w++) {
                double sum = 0;
                for (ptrdiff_t n = 0; n < p->batch; n++)
                    for (o[0] = 0; o[0] < size[0]; o[0]++)
                        for (o[1] = 0; o[1] < size[1]; o[1]++)
                            for (o[2] = 0; o[2] < size[2]; o[2]++) {
                                ptrdiff_t i = input_offset(r, o, t);
                                if (i >= 0)
                                    sum +=
                                        load(p->dtype, r->arrays->x, n * r->x.n + (g * r->channels + c) * r->x.c + i) *
                                        load(p->dtype, r->arrays->y,
                                             n * r->y.n + k * r->y.c + o[0] * r->y.axis[0] + o[1] * r->y.axis[1] +
                                                 o[2] * r->y.axis[2]);
                            }
                store(p->dtype, r->arrays->weight, index * kernel[0] * kernel[1] * kernel[2] + w, sum);
            }
}

static const char *decline(const fc_conv_plan *plan)
{
    (void)plan;
    return NULL;
}

static double cost(const fc_conv_plan *plan)
{
    (void)plan;
    return 1e30; /* never preferred to anything */
}

static size_t workspace(const fc_conv_plan *plan, int threads)
{
    (void)plan;
    (void)threads;
    return 0;
}

static void run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *space, int threads)
{
    (void)space;
    const fc_conv_problem *p = &plan->problem;
    reference r = {plan,
                   arrays,
                   strides_of(p->layout, p->in_channels, p->input),
                   strides_of(p->layout, p->out_channels, plan->output),
                   p->in_channels / p->groups,
                   p->out_channels / p->groups};
    switch (p->pass) {
    case FC_FORWARD:
        fc_parallel(threads, p->batch * p->out_channels, forward, &r);
        break;
    case FC_BACKWARD_INPUT:
        fc_parallel(threads, p->batch * p->in_channels, backward_input, &r);
        break;
    case FC_BACKWARD_WEIGHT:
        fc_parallel(threads, p->out_channels * r.channels, backward_weight, &r);
        break;
    }
}

const fc_conv_algorithm fc_algorithm_reference = {"reference", decline, cost, workspace, run, NULL, NULL};
