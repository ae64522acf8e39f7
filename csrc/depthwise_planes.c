/* depthwise_planes.c -- depthwise windows of 3x3, and of 5x5 but for the weight gradient, over small planes that keep their size, channels
 * first: kernels take many planes at once, where they lie.
 *
 * A plane of 14x14 takes fewer cycles than a call and a list of its rows do. Kernels read and write a little beyond the planes: the first and
 * the last one of the array, and the last one that a task writes, are copied. */
#include "conv.h"

enum {
    MOST_BYTES =
        16 << 10, /* of a plane, three times that for 5x5: rows of larger ones are better written from end to end */
    TASK_ELEMENTS = 32 << 10, /* of a task, about: makes up for its setup */
    AHEAD_BYTES = 8 << 10,    /* how far ahead of what is read the image is fetched */
    TASKS = 32,               /* of a weight gradient: more threads than that wait */
    PATIENCE = 256,           /* steps that a sum takes before it is added to a double one */
    SUMS = 10,                /* of a weight gradient's filter: nine taps', and dy's own */
};

typedef struct shape {
    ptrdiff_t rows, columns, outputs; /* outputs of a channel */
    ptrdiff_t plane, vector;          /* bytes; vector: bytes of one */
    bool wide;                        /* rows are a vector or more */
    ptrdiff_t task_planes;            /* weight gradient: channels of a task, */
    ptrdiff_t blocks, splits;         /* tasks side by side, parts of the images */
    ptrdiff_t sums;                   /* of a task, bytes */
    size_t worker, shared;            /* bytes */
} shape;

static shape shape_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = plan->kernels->lanes;
    shape h = {.rows = p->input[1],
               .columns = p->input[2],
               .outputs = p->out_channels / p->groups,
               .plane = p->input[1] * p->input[2] * element,
               .vector = lanes * element,
               .wide = p->input[2] >= lanes};
    if (p->pass == FC_BACKWARD_WEIGHT) {
        const ptrdiff_t most = fc_max(TASK_ELEMENTS / (h.rows * h.columns * h.outputs), 1);
        h.task_planes = fc_max(fc_min(most, p->groups / TASKS), 1);
        h.blocks = fc_ceil_div(p->groups, h.task_planes);
        const ptrdiff_t room =
            fc_max((ptrdiff_t)(plan->limit / 2) / (p->out_channels * SUMS * (ptrdiff_t)sizeof(double)), 1);
        h.splits = fc_min(fc_min(fc_ceil_div(TASKS, h.blocks), p->batch), room);
        h.sums = h.task_planes * h.outputs * SUMS * h.vector;
        h.shared = (size_t)(h.splits * p->out_channels * SUMS) * sizeof(double);
    }
    h.worker = (size_t)(fc_round_up(h.sums, FC_ALIGNMENT) + 2 * fc_round_up(h.plane + 2 * h.vector, FC_ALIGNMENT));
    return h;
}

bool fc_depthwise_planes_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t lanes = plan->kernels->lanes, size = p->kernel[2], half = size / 2;
    if (p->layout != FC_CHANNELS_FIRST || p->in_channels != p->groups ||
        (p->pass == FC_BACKWARD_INPUT && p->out_channels != p->groups) ||
        p->input[0] * plan->output[0] * p->kernel[0] != 1 || p->pad_before[0] != 0 || p->kernel[1] != size)
        return false;
    for (int a = 1; a < 3; a++)
        if (p->stride[a] != 1 || p->dilation[a] != 1 || p->pad_before[a] != half || plan->output[a] != p->input[a])
            return false;
    if (!(size == 3 || (size == 5 && p->pass != FC_BACKWARD_WEIGHT)) ||
        (p->input[2] > lanes - half && p->input[2] < lanes))
        return false;
    const shape h = shape_of(plan);
    if (!h.wide && (h.rows + 1) * h.columns < lanes)
        return false; /* what lies beyond a plane must be the next one alone */
    return h.plane <= (size == 5 ? 3 : 1) * MOST_BYTES && h.worker <= plan->limit / 2 && h.shared <= plan->limit / 2;
}

typedef struct job {
    const fc_conv_plan *plan;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *workspace;
    ptrdiff_t task_planes; /* of a task's output */
    double *totals;        /* [split][filter][SUMS] */
} job;

/* What a worker has at hand: room for sums, and for a plane of what is read and one of what is written, with a vector on either side. */
typedef struct desk {
    char *sums, *in, *out;
} desk;

static desk desk_of(const job *j, int worker)
{
    const shape *h = j->shape;
    char *space = j->workspace + (size_t)worker * h->worker;
    memset(space, 0, h->worker);
    desk d = {.sums = fc_take(&space, h->sums)};
    d.in = (char *)fc_take(&space, h->plane + 2 * h->vector) + h->vector;
    d.out = space + h->vector;
    return d;
}

/* Whether something is read before the plane or beyond it that is not of the array. */
static bool is_outermost(const shape *h, ptrdiff_t plane, ptrdiff_t planes)
{
    return plane == planes - 1 || (h->wide && plane == 0);
}

/* The planes from `plane` on that are as it is: those at the array's ends are apart from the others. */
static ptrdiff_t run_of(const shape *h, ptrdiff_t plane, ptrdiff_t last, ptrdiff_t planes)
{
    if (is_outermost(h, plane, planes))
        return 1;
    return fc_min(last, planes - 1) - plane;
}

/* ---- forward and input gradient ---------------------------------------------------------------------------------- */

static void run_task(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), taps = p->kernel[1] * p->kernel[2],
                    filters = p->out_channels, planes = p->batch * p->groups;
    const ptrdiff_t first = index * j->task_planes, last = fc_min(first + j->task_planes, p->batch * filters);
    const desk d = desk_of(j, worker);
    for (ptrdiff_t at = first, count; at < last; at += count) {
        const ptrdiff_t plane = at / h->outputs, filter = at % filters;
        const char *in = j->in + plane * h->plane;
        char *out = j->out + at * h->plane;
        /* what is written beyond a plane is written over by the next one, if this task writes it */
        const bool copied = !h->wide && at == last - 1;
        count = 1;
        if (h->outputs == 1 && !copied)
            count = fc_min(run_of(h, plane, last - !h->wide, planes), filters - filter);
        fc_depthwise_planes task = {.in = is_outermost(h, plane, planes) ? memcpy(d.in, in, (size_t)h->plane) : in,
                                    .out = copied ? d.out : out,
                                    .planes = count,
                                    .rows = h->rows,
                                    .columns = h->columns,
                                    .ahead = {in + AHEAD_BYTES},
                                    .weight = j->weight + filter * taps * element,
                                    .back = p->pass == FC_BACKWARD_INPUT,
                                    .bias = j->bias ? j->bias + filter * element : NULL,
                                    .relu = p->relu};
        kernels->depthwise_planes[p->kernel[2] == 5](&task);
        if (copied)
            memcpy(out, d.out, (size_t)h->plane);
    }
}

/* ---- weight gradient --------------------------------------------------------------------------------------------- */

static void run_gradient(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t block = index % h->blocks, split = index / h->blocks, planes = p->batch * p->groups;
    const ptrdiff_t first = block * h->task_planes, last = fc_min(first + h->task_planes, p->groups);
    const ptrdiff_t n0 = split * p->batch / h->splits, n1 = (split + 1) * p->batch / h->splits;
    const ptrdiff_t vectors = (last - first) * h->outputs * SUMS;
    const desk d = desk_of(j, worker);
    double *totals = j->totals + (split * p->out_channels + first * h->outputs) * SUMS;
    memset(totals, 0, (size_t)vectors * sizeof *totals);
    for (ptrdiff_t n = n0, pending = 0; n < n1; n++) {
        const ptrdiff_t next = n < n1 - 1 ? p->groups * h->plane : 0; /* from a plane to that of the next image */
        char *sums = d.sums;
        for (ptrdiff_t g = first, count; g < last; g += count) {
            const ptrdiff_t plane = n * p->groups + g;
            const char *in = j->in + plane * h->plane;
            const bool copied = is_outermost(h, plane, planes);
            count = run_of(h, plane, plane + (h->outputs == 1 ? last - g : 1), planes);
            for (ptrdiff_t o = 0; o < h->outputs; o++, sums += count * SUMS * h->vector) {
                char *dy = j->out + (plane * h->outputs + o) * h->plane;
                fc_depthwise_planes task = {.in = copied ? memcpy(d.in, in, (size_t)h->plane) : in,
                                            .out = copied ? memcpy(d.out, dy, (size_t)h->plane) : dy,
                                            .planes = count,
                                            .rows = h->rows,
                                            .columns = h->columns,
                                            .ahead = {in + next, dy + next * h->outputs},
                                            .sums = sums};
                kernels->depthwise_planes_sum(&task);
            }
        }
        pending += h->rows;
        if (pending >= PATIENCE || n == n1 - 1) {
            kernels->fold(d.sums, vectors, totals);
            pending = 0;
        }
    }
}

/* ---- the driver -------------------------------------------------------------------------------------------------- */

size_t fc_depthwise_planes_workspace(const fc_conv_plan *plan, int threads)
{
    const shape h = shape_of(plan);
    return h.worker * (size_t)threads + h.shared + FC_ALIGNMENT;
}

void fc_depthwise_planes_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
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
        fc_depthwise_add(plan, j.totals, h.splits, SUMS, 0, arrays->weight, arrays->bias, threads);
        return;
    }
    /* how many planes a task has does not change a bit of the result */
    const ptrdiff_t planes = p->batch * p->out_channels;
    j.task_planes = fc_max(TASK_ELEMENTS / (h.rows * h.columns), 1);
    if (threads > 1)
        j.task_planes = fc_min(j.task_planes, fc_max(planes / (4 * threads), 1));
    fc_parallel(threads, fc_ceil_div(planes, j.task_planes), run_task, &j);
}
