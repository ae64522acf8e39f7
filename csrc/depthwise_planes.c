/* depthwise_planes.c -- depthwise windows of 3x3, and of 5x5 but for the weight gradient, over small planes, channels first: kernels take many
 * planes at once, where they lie.
 *
 * A plane of 14x14 takes fewer cycles than a call and a list of its rows do. Kernels read and write a little beyond the planes: the first and
 * the last ones of the array, and the last ones that a task writes, are copied. */
#include "conv.h"

enum {
    MOST_BYTES = 16 << 10,    /* of a plane, three times that for 5x5: rows of larger ones are best written in order */
    TASK_ELEMENTS = 32 << 10, /* of a task, about: makes up for its setup */
    AHEAD_BYTES = 8 << 10,    /* how far ahead of what is read the image is fetched */
    TASKS = 32,               /* of a weight gradient: more threads than that wait */
    PATIENCE = 256,           /* steps that a sum takes before it is added to a double one */
    SUMS = 10,                /* of a weight gradient's filter: nine taps', and dy's own */
};

typedef struct shape {
    const fc_axis *rows, *columns;
    ptrdiff_t outputs;         /* of a channel */
    ptrdiff_t in, out, vector; /* bytes of a plane, of what is computed from it, and of a vector */
    ptrdiff_t before, beyond;  /* elements that are read before a plane and beyond it, */
    ptrdiff_t spill;           /* and touched beyond one of the output's */
    ptrdiff_t task_planes;     /* weight gradient: channels of a task, */
    ptrdiff_t blocks, splits;  /* tasks side by side, parts of the images */
    ptrdiff_t sums;            /* of a task, bytes */
    size_t worker, shared;     /* bytes */
} shape;

static fc_sweep sweep_of(const fc_conv_plan *plan)
{
    return plan->problem.pass == FC_BACKWARD_INPUT ? fc_sweep_backward_input(plan, 0) : fc_sweep_forward(plan);
}

static shape shape_of(const fc_conv_plan *plan, const fc_sweep *s)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = plan->kernels->lanes;
    shape h = {
        .rows = &s->axis[1], .columns = &s->axis[2], .outputs = p->out_channels / p->groups, .vector = lanes * element};
    const ptrdiff_t places = h.rows->places * h.columns->places, over = fc_max(lanes - h.columns->places, 0);
    h.in = h.rows->input * h.columns->input * element;
    h.out = places * element;
    h.before = -h.columns->origin;
    /* the last vector's last tap, and what is loaded together with it */
    h.beyond = fc_max((h.columns->places + over) * h.columns->step + h.columns->taps - h.before - h.columns->input, 0);
    h.spill = over;
    if (p->pass == FC_BACKWARD_WEIGHT) {
        const ptrdiff_t most = fc_max(TASK_ELEMENTS / (places * h.outputs), 1);
        h.task_planes = fc_max(fc_min(most, p->groups / TASKS), 1);
        h.blocks = fc_ceil_div(p->groups, h.task_planes);
        const ptrdiff_t room =
            fc_max((ptrdiff_t)(plan->limit / 2) / (p->out_channels * SUMS * (ptrdiff_t)sizeof(double)), 1);
        h.splits = fc_min(fc_min(fc_ceil_div(TASKS, h.blocks), p->batch), room);
        h.sums = h.task_planes * h.outputs * SUMS * h.vector;
        h.shared = (size_t)(h.splits * p->out_channels * SUMS) * sizeof(double);
    }
    h.worker =
        (size_t)(fc_round_up(h.sums, FC_ALIGNMENT) + fc_round_up((h.before + h.beyond) * element + h.in, FC_ALIGNMENT) +
                 fc_round_up(h.spill * element + h.out, FC_ALIGNMENT));
    return h;
}

bool fc_depthwise_planes_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const bool back = p->pass == FC_BACKWARD_INPUT;
    const ptrdiff_t lanes = plan->kernels->lanes;
    if (p->layout != FC_CHANNELS_FIRST || (back && (p->out_channels != p->groups || fc_sweep_phases(plan) > 1)))
        return false;
    const fc_sweep s = sweep_of(plan);
    const fc_axis *d = &s.axis[0], *h = &s.axis[1], *w = &s.axis[2];
    const ptrdiff_t size = w->taps, half = size / 2;
    if (d->input != 1 || d->places != 1 || d->taps != 1 || d->origin != 0 || h->taps != size || p->kernel[1] != size ||
        p->kernel[2] != size || h->step != w->step || w->step > 2 ||
        !(size == 3 || (size == 5 && p->pass != FC_BACKWARD_WEIGHT)))
        return false;
    for (int a = 1; a < 3; a++) {
        const fc_axis *ax = &s.axis[a];
        const ptrdiff_t over = ax->origin + (ax->places - 1) * ax->step + size - ax->input;
        if (ax->tap_step != 1 || ax->origin > 0 || -ax->origin > half || over > half)
            return false;
    }
    if (p->pass == FC_BACKWARD_WEIGHT && w->step == 1 && (h->origin != -1 || h->places != h->input))
        return false;
    const bool turned = w->step == 1 && w->places == w->input && w->places <= lanes - half;
    if (w->places < lanes && !turned && w->step == 1)
        return false; /* the taps of one vector would lie outside at either end */
    const shape n = shape_of(plan, &s);
    return n.in <= (size == 5 ? 3 : 1) * MOST_BYTES && n.worker <= plan->limit / 2 && n.shared <= plan->limit / 2;
}

typedef struct job {
    const fc_conv_plan *plan;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *workspace;
    ptrdiff_t task_planes; /* of a task's output */
    double *totals;        /* [split][filter][SUMS] */
} job;

/* What a worker has at hand: room for sums, and for a plane of what is read and one of what is written; what lies around these does not count. */
typedef struct desk {
    char *sums, *in, *out;
} desk;

static desk desk_of(const job *j, int worker)
{
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    char *space = j->workspace + (size_t)worker * h->worker;
    desk d = {.sums = fc_take(&space, h->sums)};
    d.in = (char *)fc_take(&space, (h->before + h->beyond) * element + h->in) + h->before * element;
    d.out = space;
    return d;
}

/* Of `planes` planes, how many at their end are less than so many elements away from it. */
static ptrdiff_t tail_of(ptrdiff_t planes, ptrdiff_t elements, ptrdiff_t plane)
{
    return fc_min(fc_ceil_div(elements, plane), planes);
}

/* How many planes from `plane` on the kernels may read where they lie: 0 where what is read around it is not of the array. */
static ptrdiff_t run_of(const job *j, ptrdiff_t plane, ptrdiff_t last)
{
    const shape *h = j->shape;
    const ptrdiff_t planes = j->plan->problem.batch * j->plan->problem.groups,
                    size = h->rows->input * h->columns->input, places = h->rows->places * h->columns->places;
    ptrdiff_t tail = tail_of(planes, h->beyond, size);
    if (j->plan->problem.pass == FC_BACKWARD_WEIGHT)
        tail = fc_max(tail, fc_ceil_div(tail_of(planes * h->outputs, h->spill, places), h->outputs));
    return plane * size < h->before ? 0 : fc_max(fc_min(last, planes - tail) - plane, 0);
}

static fc_depthwise_planes task_of(const job *j, ptrdiff_t planes)
{
    const shape *h = j->shape;
    return (fc_depthwise_planes){.planes = planes,
                                 .in_rows = h->rows->input,
                                 .in_columns = h->columns->input,
                                 .rows = h->rows->places,
                                 .columns = h->columns->places,
                                 .pad = {-h->rows->origin, -h->columns->origin},
                                 .back = j->plan->problem.pass == FC_BACKWARD_INPUT,
                                 .relu = j->plan->problem.relu};
}

/* ---- forward and input gradient ---------------------------------------------------------------------------------- */

static void run_task(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), taps = h->rows->taps * h->columns->taps,
                    filters = p->out_channels;
    const ptrdiff_t first = index * j->task_planes, last = fc_min(first + j->task_planes, p->batch * filters);
    /* what is written beyond a plane is written over by the next one, if this task writes it */
    const ptrdiff_t copied = last - tail_of(last - first, h->spill, h->rows->places * h->columns->places);
    const desk d = desk_of(j, worker);
    for (ptrdiff_t at = first, count; at < last; at += count) {
        const ptrdiff_t plane = at / h->outputs, filter = at % filters;
        const char *in = j->in + plane * h->in;
        char *out = j->out + at * h->out;
        const ptrdiff_t run = run_of(j, plane, h->outputs == 1 && at < copied ? copied : plane + 1);
        count = fc_max(fc_min(run, filters - filter), 1);
        fc_depthwise_planes task = task_of(j, count);
        task.in = run ? in : memcpy(d.in, in, (size_t)h->in);
        task.out = at < copied ? out : d.out;
        task.ahead[0] = in + AHEAD_BYTES;
        task.weight = j->weight + filter * taps * element;
        task.bias = j->bias ? j->bias + filter * element : NULL;
        j->plan->kernels->depthwise_planes[taps == 25][h->columns->step - 1](&task);
        if (at >= copied)
            memcpy(out, d.out, (size_t)h->out);
    }
}

/* ---- weight gradient --------------------------------------------------------------------------------------------- */

static void run_gradient(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t block = index % h->blocks, split = index / h->blocks;
    const ptrdiff_t first = block * h->task_planes, last = fc_min(first + h->task_planes, p->groups);
    const ptrdiff_t n0 = split * p->batch / h->splits, n1 = (split + 1) * p->batch / h->splits;
    const ptrdiff_t vectors = (last - first) * h->outputs * SUMS;
    const desk d = desk_of(j, worker);
    double *totals = j->totals + (split * p->out_channels + first * h->outputs) * SUMS;
    memset(totals, 0, (size_t)vectors * sizeof *totals);
    memset(d.sums, 0, (size_t)h->sums);
    for (ptrdiff_t n = n0, pending = 0; n < n1; n++) {
        const ptrdiff_t next = n < n1 - 1 ? p->groups : 0; /* from a plane to that of the next image */
        char *sums = d.sums;
        for (ptrdiff_t g = first, count; g < last; g += count) {
            const ptrdiff_t plane = n * p->groups + g;
            const ptrdiff_t run = run_of(j, plane, h->outputs == 1 ? plane + last - g : plane + 1);
            const char *in = j->in + plane * h->in;
            count = fc_max(run, 1);
            for (ptrdiff_t o = 0; o < h->outputs; o++, sums += count * SUMS * h->vector) {
                char *dy = j->out + (plane * h->outputs + o) * h->out;
                fc_depthwise_planes task = task_of(j, count);
                task.in = run ? in : memcpy(d.in, in, (size_t)h->in);
                task.out = run ? dy : memcpy(d.out, dy, (size_t)h->out);
                task.ahead[0] = in + next * h->in;
                task.ahead[1] = dy + next * h->outputs * h->out;
                task.sums = sums;
                kernels->depthwise_planes_sum[h->columns->step - 1](&task);
            }
        }
        pending += h->rows->places * fc_ceil_div(h->columns->places, kernels->lanes);
        if (pending >= PATIENCE || n == n1 - 1) {
            kernels->fold(d.sums, vectors, totals);
            pending = 0;
        }
    }
}

/* ---- the driver -------------------------------------------------------------------------------------------------- */

size_t fc_depthwise_planes_workspace(const fc_conv_plan *plan, int threads)
{
    const fc_sweep s = sweep_of(plan);
    const shape h = shape_of(plan, &s);
    return h.worker * (size_t)threads + h.shared + FC_ALIGNMENT;
}

void fc_depthwise_planes_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    const fc_sweep s = sweep_of(plan);
    const shape h = shape_of(plan, &s);
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
    j.task_planes = fc_max(TASK_ELEMENTS / (h.rows->places * h.columns->places), 1);
    if (threads > 1)
        j.task_planes = fc_min(j.task_planes, fc_max(planes / (4 * threads), 1));
    fc_parallel(threads, fc_ceil_div(planes, j.task_planes), run_task, &j);
}
