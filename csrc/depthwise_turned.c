/* depthwise_turned.c -- depthwise windows over planes that are much narrower than a vector, channels first: as many channels as a vector has
 * lanes are turned to lie side by side, in between zeros, and the results are turned back.
 *
 * They would leave more than half of each vector empty, and there is little else to do than to fill them. Where depthwise_planes.c takes
 * them as they lie, only the narrowest are worth turning. */
#include "conv.h"

enum {
    MOST_BYTES = 96 << 10,    /* of what a worker holds: of the second-level cache */
    TASK_ELEMENTS = 32 << 10, /* of a task, about: makes up for its setup */
    MOST_PHASES = 4,
    TASKS = 32,     /* of a weight gradient: more threads than that wait */
    PATIENCE = 256, /* places that a sum takes before it is added to a double one */
};

typedef struct shape {
    ptrdiff_t phases;
    fc_axis axis[MOST_PHASES][2]; /* rows and columns of each */
    ptrdiff_t in[2], out[2];      /* rows and columns of a plane */
    ptrdiff_t before[2], all[2];  /* zeros before its rows and columns, and all with those after it */
    ptrdiff_t taps, blocks;       /* of a filter; of channels */
    ptrdiff_t splits, pitch;      /* weight gradient: parts of the images; doubles of a tap's totals */
    size_t worker, shared;        /* bytes */
} shape;

static shape shape_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const bool back = p->pass == FC_BACKWARD_INPUT;
    const ptrdiff_t vector = plan->kernels->lanes * (ptrdiff_t)fc_size_of(p->dtype);
    shape h = {.phases = back ? fc_sweep_phases(plan) : 1,
               .taps = p->kernel[1] * p->kernel[2],
               .blocks = fc_ceil_div(p->groups, plan->kernels->lanes)};
    for (int a = 0; a < 2; a++) {
        h.in[a] = back ? plan->output[a + 1] : p->input[a + 1];
        h.out[a] = back ? p->input[a + 1] : plan->output[a + 1];
        h.all[a] = h.in[a];
    }
    for (ptrdiff_t i = 0; i < h.phases; i++) {
        const fc_sweep s = back ? fc_sweep_backward_input(plan, i) : fc_sweep_forward(plan);
        for (int a = 0; a < 2; a++) {
            const fc_axis *ax = &s.axis[a + 1];
            h.axis[i][a] = *ax;
            h.before[a] = fc_max(h.before[a], -ax->origin);
            h.all[a] = fc_max(h.all[a], ax->origin + (ax->places - 1) * ax->step + (ax->taps - 1) * ax->tap_step + 1);
        }
    }
    for (int a = 0; a < 2; a++)
        h.all[a] += h.before[a];
    /* the plane in between zeros, the same as it is turned, or the results, and weights and bias, or their sums */
    const ptrdiff_t turned = fc_max(h.in[0] * h.in[1], h.out[0] * h.out[1]);
    h.worker = (size_t)((h.all[0] * h.all[1] + turned + 2 * h.taps + 1) * vector);
    if (p->pass == FC_BACKWARD_WEIGHT) {
        h.pitch = h.blocks * plan->kernels->lanes;
        h.splits = fc_max(fc_min(fc_ceil_div(TASKS, h.blocks), p->batch), 1);
        h.shared = (size_t)(h.splits * (h.taps + 1) * h.pitch) * sizeof(double);
    }
    return h;
}

bool fc_depthwise_turned_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const fc_kernels *kernels = plan->kernels;
    const ptrdiff_t lanes = kernels->lanes, element = (ptrdiff_t)fc_size_of(p->dtype);
    const bool sums = p->pass == FC_BACKWARD_WEIGHT;
    if (p->layout != FC_CHANNELS_FIRST || p->in_channels != p->groups || p->out_channels != p->groups ||
        p->groups < lanes || lanes * element != FC_ALIGNMENT || p->input[0] * plan->output[0] * p->kernel[0] != 1 ||
        p->pad_before[0] != 0 || fc_max(p->kernel[1], p->kernel[2]) >= FC_TURNED_WIDTHS)
        return false;
    for (int a = 1; a < 3; a++)
        if (p->input[a] > lanes || plan->output[a] > lanes || p->stride[a] > fc_min(p->kernel[a], 2) ||
            p->dilation[a] > 1)
            return false;
    if (sums && (p->kernel[1] != p->kernel[2] || (p->kernel[2] != 3 && p->kernel[2] != 5)))
        return false;
    /* these turn nothing, and where they fill enough of their vectors are faster: measured */
    const ptrdiff_t eighths = p->kernel[2] == 5 ? 4 : sums ? 3 : 2;
    if (8 * p->input[2] > eighths * lanes && fc_depthwise_planes_fit(plan))
        return false;
    if (4 * fc_max(p->input[2], plan->output[2]) > 3 * lanes && p->stride[2] == 1 && fc_depthwise_lines_fit(plan))
        return false;
    const shape h = shape_of(plan);
    for (ptrdiff_t i = 0; i < h.phases; i++) {
        const fc_axis *across = &h.axis[i][1];
        if (!sums && !kernels->depthwise_turned[across->taps][across->step - 1])
            return false;
    }
    return h.worker <= MOST_BYTES && h.worker <= plan->limit / 2 && h.shared <= plan->limit / 2;
}

typedef struct job {
    const fc_conv_plan *plan;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *workspace;
    ptrdiff_t images, parts; /* of a task, at most, and how many such there are */
    double *totals;          /* [split][tap, and dy's own][pitch] */
} job;

/* What a worker has at hand. */
typedef struct desk {
    char *inner, *turned; /* inner: the plane's first element in between zeros */
    char *weight;         /* or sums; before it is room for as many taps */
} desk;

static desk desk_of(const job *j, int worker)
{
    const shape *h = j->shape;
    const ptrdiff_t vector = j->plan->kernels->lanes * (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    char *padded = j->workspace + (size_t)worker * h->worker;
    memset(padded, 0, h->worker);
    return (desk){.inner = padded + (h->before[0] * h->all[1] + h->before[1]) * vector,
                  .turned = padded + h->all[0] * h->all[1] * vector,
                  .weight = padded + (ptrdiff_t)h->worker - (h->taps + 1) * vector};
}

/* Planes of so many channels, in between the zeros. */
static void turn_planes(const job *j, const desk *d, const char *planes, ptrdiff_t count)
{
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t lanes = kernels->lanes, vector = lanes * (ptrdiff_t)fc_size_of(j->plan->problem.dtype),
                    in = h->in[0] * h->in[1];
    kernels->transpose(planes, in, d->turned, lanes, count, in);
    for (ptrdiff_t r = 0; r < h->in[0]; r++)
        kernels->copy(d->turned + r * h->in[1] * vector, d->inner + r * h->all[1] * vector, h->in[1] * lanes);
}

/* A phase's places and taps. */
static fc_depthwise_turned task_of(const job *j, const desk *d, const fc_axis axis[2])
{
    const shape *h = j->shape;
    const fc_axis *down = &axis[0], *across = &axis[1];
    const ptrdiff_t vector = j->plan->kernels->lanes * (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    return (fc_depthwise_turned){.in = d->inner + (down->origin * h->all[1] + across->origin) * vector,
                                 .rows = down->places,
                                 .columns = across->places,
                                 .in_pitch = down->step * h->all[1],
                                 .tap_pitch = down->tap_step * h->all[1],
                                 .height = down->taps,
                                 .relu = j->plan->problem.relu,
                                 .out = d->turned + (down->output_first * h->out[1] + across->output_first) * vector,
                                 .out_pitch = down->output_step * h->out[1],
                                 .out_step = across->output_step};
}

/* The weights of a block of channels, in the order in which phases meet them; and the bias. */
static void turn_weights(const job *j, ptrdiff_t first, ptrdiff_t count, char *turned, char *to)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), taps = j->shape->taps,
                    lanes = j->plan->kernels->lanes, vector = lanes * element;
    j->plan->kernels->transpose(j->weight + first * taps * element, taps, turned, lanes, count, taps);
    for (ptrdiff_t i = 0; i < j->shape->phases; i++) {
        const fc_axis *h = &j->shape->axis[i][0], *w = &j->shape->axis[i][1];
        for (ptrdiff_t y = 0; y < h->taps; y++)
            for (ptrdiff_t x = 0; x < w->taps; x++, to += vector)
                memcpy(to,
                       turned +
                           ((h->kernel_first + y * h->kernel_step) * w->kernel + w->kernel_first + x * w->kernel_step) *
                               vector,
                       (size_t)vector);
    }
    if (j->bias)
        memcpy(to, j->bias + first * element, (size_t)(count * element));
}

static void run_block(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = kernels->lanes, vector = lanes * element,
                    in = h->in[0] * h->in[1], out = h->out[0] * h->out[1];
    const ptrdiff_t first = index / j->parts * lanes, count = fc_min(lanes, p->groups - first),
                    n0 = index % j->parts * j->images, n1 = fc_min(n0 + j->images, p->batch);
    const desk d = desk_of(j, worker);
    turn_weights(j, first, count, d.weight - h->taps * vector, d.weight);
    for (ptrdiff_t n = n0; n < n1; n++) {
        const ptrdiff_t plane = n * p->groups + first;
        turn_planes(j, &d, j->in + plane * in * element, count);
        const char *taps = d.weight;
        for (ptrdiff_t i = 0; i < h->phases; i++) {
            const fc_axis *down = &h->axis[i][0], *across = &h->axis[i][1];
            fc_depthwise_turned task = task_of(j, &d, h->axis[i]);
            task.weight = taps;
            task.bias = j->bias ? d.weight + h->taps * vector : NULL;
            kernels->depthwise_turned[across->taps][across->step - 1](&task);
            taps += down->taps * across->taps * vector;
        }
        kernels->transpose(d.turned, lanes, j->out + plane * out * element, out, out, count);
    }
}

/* The last block of channels is that of the last channels. */
static void run_gradient(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = kernels->lanes, vector = lanes * element,
                    in = h->in[0] * h->in[1], out = h->out[0] * h->out[1];
    const ptrdiff_t block = index % h->blocks, split = index / h->blocks,
                    first = fc_min(block * lanes, p->groups - lanes), n0 = split * p->batch / h->splits,
                    n1 = (split + 1) * p->batch / h->splits;
    double *totals = j->totals + split * (h->taps + 1) * h->pitch + block * lanes;
    const desk d = desk_of(j, worker);
    for (ptrdiff_t t = 0; t <= h->taps; t++)
        memset(totals + t * h->pitch, 0, (size_t)lanes * sizeof *totals);
    for (ptrdiff_t n = n0, pending = 0; n < n1; n++) {
        const ptrdiff_t plane = n * p->groups + first;
        turn_planes(j, &d, j->in + plane * in * element, lanes);
        kernels->transpose(j->out + plane * out * element, out, d.turned, lanes, lanes, out);
        fc_depthwise_turned task = task_of(j, &d, h->axis[0]);
        task.sums = d.weight;
        kernels->depthwise_turned_sum[p->kernel[2] == 5][h->axis[0][1].step - 1](&task);
        pending += out;
        if (pending < PATIENCE && n < n1 - 1)
            continue;
        for (ptrdiff_t t = 0; t <= h->taps; t++)
            kernels->drain(d.weight + t * vector, lanes, totals + t * h->pitch);
        pending = 0;
    }
}

size_t fc_depthwise_turned_workspace(const fc_conv_plan *plan, int threads)
{
    const shape h = shape_of(plan);
    return h.worker * (size_t)threads + h.shared + FC_ALIGNMENT;
}

void fc_depthwise_turned_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    const shape h = shape_of(plan);
    const bool back = p->pass == FC_BACKWARD_INPUT;
    char *space = workspace;
    job j = {.plan = plan,
             .shape = &h,
             .in = back ? arrays->y : arrays->x,
             .out = back ? arrays->x : arrays->y,
             .weight = arrays->weight,
             .bias = back ? NULL : arrays->bias};
    j.totals = fc_take(&space, (ptrdiff_t)h.shared);
    j.workspace = space;
    if (p->pass == FC_BACKWARD_WEIGHT) {
        fc_parallel(threads, h.blocks * h.splits, run_gradient, &j);
        fc_depthwise_add(plan, j.totals, h.splits, h.taps + 1, h.pitch, arrays->weight, arrays->bias, threads);
        return;
    }
    /* how many images a task has does not change a bit of the result */
    const ptrdiff_t block = plan->kernels->lanes * (h.in[0] * h.in[1] + h.out[0] * h.out[1]);
    j.images = fc_min(fc_max(TASK_ELEMENTS / block, 1), fc_max(p->batch, 1));
    j.parts = fc_ceil_div(p->batch, j.images);
    fc_parallel(threads, h.blocks * j.parts, run_block, &j);
}
