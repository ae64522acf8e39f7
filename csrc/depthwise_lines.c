/* depthwise_lines.c -- depthwise windows of 3x3, and of 5x5 but for the weight gradient, channels first: rows are read where they lie,
 * nothing is staged.
 *
 * The kernels take a pointer to each row that they read, those of the padding to zeros, and mask what a vector reads beyond
 * the ends of its row. Where that would be beyond the ends of the array, too, the row is copied. A task takes some rows of
 * the output of one plane, or of all rows of several. */
#include "conv.h"

enum {
    PART_ELEMENTS = 32 << 10, /* of a task, about: makes up for its setup */
    BAND = 7,                 /* rows that kernels like to compute at once */
    TASKS = 32,               /* of a weight gradient: more threads than that wait */
    PATIENCE = 256,           /* steps that a sum takes before it is added to a double one */
    AHEAD_BYTES = 8 << 10,    /* how far ahead of what is read the image is fetched */
    SUMS = 10,                /* of a weight gradient's filter: nine taps', and dy's own */
};

typedef struct shape {
    const fc_axis *rows, *columns;
    ptrdiff_t images, planes, outputs; /* images times channels; outputs of a channel */
    ptrdiff_t low, high;               /* elements of a row that vectors may touch, from its column 0 on */
    ptrdiff_t spare, spares[2];        /* elements of a copied row; rows copied at either end of the array */
    ptrdiff_t part_rows, parts;        /* rows of a task's output; tasks of a plane */
    ptrdiff_t lines;                   /* of a task */
    ptrdiff_t task_planes;             /* weight gradient: channels of a task, */
    ptrdiff_t blocks, splits;          /* tasks side by side, parts of the images */
    size_t worker, shared;             /* bytes */
} shape;

static fc_sweep sweep_of(const fc_conv_plan *plan)
{
    return plan->problem.pass == FC_BACKWARD_INPUT ? fc_sweep_backward_input(plan, 0) : fc_sweep_forward(plan);
}

static shape shape_of(const fc_conv_plan *plan, const fc_sweep *s)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = plan->kernels->lanes;
    shape h = {.rows = &s->axis[1], .columns = &s->axis[2]};
    const ptrdiff_t places = h.columns->places, step = h.columns->step, width = h.columns->input;
    h.images = p->batch;
    h.planes = p->batch * p->groups;
    h.outputs = p->out_channels / p->groups;
    h.low = fc_min(h.columns->origin, 0);
    h.high = fc_max(h.columns->origin + (fc_max(places - lanes, 0) + lanes) * step + h.columns->taps - 1, width);
    h.spare = fc_round_up(h.high - h.low, FC_ALIGNMENT / element);
    h.spares[0] = fc_min(fc_ceil_div(-h.low, width), h.planes * h.rows->input);
    h.spares[1] = fc_min(fc_ceil_div(h.high - width, width), h.planes * h.rows->input);
    h.parts = fc_ceil_div(h.rows->places * places, PART_ELEMENTS);
    h.part_rows = fc_round_up(fc_ceil_div(h.rows->places, h.parts), BAND);
    h.parts = fc_ceil_div(h.rows->places, h.part_rows);
    h.lines = (fc_min(h.part_rows, h.rows->places) - 1) * step + h.rows->taps;
    ptrdiff_t sums = 0, temp = 0;
    if (p->pass == FC_BACKWARD_WEIGHT) {
        ptrdiff_t most = fc_max(PART_ELEMENTS / (h.rows->places * places * h.outputs), 1);
        h.task_planes = fc_max(fc_min(most, p->groups / TASKS), 1);
        h.blocks = fc_ceil_div(p->groups, h.task_planes);
        ptrdiff_t room = fc_max((ptrdiff_t)(plan->limit / 2) / (p->out_channels * SUMS * (ptrdiff_t)sizeof(double)), 1);
        h.splits = fc_min(fc_min(fc_ceil_div(TASKS, h.blocks), h.parts * p->batch), room);
        h.shared = (size_t)(h.splits * p->out_channels * SUMS) * sizeof(double);
        sums = h.task_planes * h.outputs * SUMS * lanes;
        temp = places < lanes ? h.part_rows * lanes : 0;
    }
    h.worker = (size_t)(fc_round_up(h.lines * (ptrdiff_t)sizeof(void *), FC_ALIGNMENT) +
                        fc_round_up((1 + h.spares[0] + h.spares[1]) * h.spare * element, FC_ALIGNMENT) +
                        fc_round_up((sums + temp) * element, FC_ALIGNMENT));
    return h;
}

bool fc_depthwise_lines_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const bool back = p->pass == FC_BACKWARD_INPUT;
    if (p->layout != FC_CHANNELS_FIRST || (back && (p->out_channels != p->groups || fc_sweep_phases(plan) > 1)))
        return false;
    const fc_sweep s = sweep_of(plan);
    const fc_axis *d = &s.axis[0], *h = &s.axis[1], *w = &s.axis[2];
    const ptrdiff_t lanes = plan->kernels->lanes, over = w->origin + (w->places - 1) * w->step + w->taps - w->input;
    const bool window = d->input == 1 && d->places == 1 && d->taps == 1 && d->origin == 0 && h->taps == p->kernel[1] &&
                        w->taps == p->kernel[2] && h->taps == w->taps &&
                        (w->taps == 3 || (w->taps == 5 && p->pass != FC_BACKWARD_WEIGHT)) && h->tap_step == 1 &&
                        w->tap_step == 1 && h->step == w->step && h->step <= 2;
    /* where vectors are not whole lines, each tap of 5 at stride 2 takes loads of its own: measured, a quarter slower than staged rows */
    if (w->taps == 5 && w->step == 2 && lanes * (ptrdiff_t)fc_size_of(p->dtype) != FC_ALIGNMENT)
        return false;
    const bool edges = w->input < INT32_MAX / 4 && -w->origin <= lanes && w->origin < w->input && over <= lanes;
    if (!window || !edges)
        return false;
    const shape needed = shape_of(plan, &s); /* rows of any length can be staged */
    return needed.worker <= plan->limit / 2 && needed.shared <= plan->limit / 2;
}

/* What a worker has at hand. */
typedef struct desk {
    const shape *shape;
    const char *in;
    ptrdiff_t pitch;         /* bytes of a row */
    ptrdiff_t spare, margin; /* of one that may be read as far as vectors reach, and of it before column 0 */
    const void **lines;
    char *zeros, *copies, *sums, *temp;
} desk;

static desk desk_of(const fc_conv_plan *plan, const shape *h, const char *in, char *space)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(plan->problem.dtype);
    desk d = {.shape = h, .in = in, .pitch = h->columns->input * element};
    d.lines = fc_take(&space, h->lines * (ptrdiff_t)sizeof(void *));
    d.spare = h->spare * element;
    d.margin = -h->low * element;
    d.zeros = fc_take(&space, (1 + h->spares[0] + h->spares[1]) * d.spare);
    memset(d.zeros, 0, (size_t)d.spare);
    d.copies = d.zeros + d.spare;
    d.sums = space;
    d.temp = d.sums + h->task_planes * h->outputs * SUMS * plan->kernels->lanes * element;
    return d;
}

static const char *copy_line(const desk *d, const char *line, ptrdiff_t index)
{
    char *spare = memset(d->copies + index * d->spare, 0, (size_t)d->spare);
    return memcpy(spare + d->margin, line, (size_t)d->pitch);
}

/* Points to the rows that places of rows first .. first + count - 1 of a plane read. */
static void list_lines(const desk *d, ptrdiff_t plane, ptrdiff_t first, ptrdiff_t count)
{
    const shape *h = d->shape;
    const ptrdiff_t size = h->rows->input, all = h->planes * size;
    const ptrdiff_t start = h->rows->origin + first * h->rows->step,
                    lines = (count - 1) * h->rows->step + h->rows->taps;
    const ptrdiff_t begin = fc_min(fc_max(-start, 0), lines), end = fc_max(fc_min(size - start, lines), begin);
    const ptrdiff_t index = plane * size + start, pitch = d->pitch; /* of line 0 among the rows of all planes */
    const void **list = d->lines, *const zeros = d->zeros + d->margin;
    for (ptrdiff_t i = 0; i < begin; i++)
        list[i] = zeros;
    const char *row = d->in + (index + begin) * pitch;
    for (ptrdiff_t i = begin; i < end; i++, row += pitch)
        list[i] = row;
    for (ptrdiff_t i = end; i < lines; i++)
        list[i] = zeros;
    for (ptrdiff_t i = begin; i < fc_min(end, h->spares[0] - index); i++)
        list[i] = copy_line(d, list[i], index + i);
    for (ptrdiff_t i = fc_max(begin, all - h->spares[1] - index); i < end; i++)
        list[i] = copy_line(d, list[i], h->spares[0] + all - 1 - index - i);
}

/* What all planes of a task have in common. */
static fc_depthwise job_of(const fc_conv_plan *plan, const desk *d, ptrdiff_t rows)
{
    const shape *h = d->shape;
    return (fc_depthwise){.lines = d->lines,
                          .origin = h->columns->origin,
                          .size = h->columns->input,
                          .rows = rows,
                          .columns = h->columns->places,
                          .out_pitch = h->columns->places,
                          .relu = plan->problem.relu};
}

/* What lies ahead of the rows that a plane's are read from. */
static fc_ahead ahead_of(const desk *d, ptrdiff_t plane, ptrdiff_t first)
{
    const fc_axis *rows = d->shape->rows;
    return (fc_ahead){d->in + (plane * rows->input + rows->origin + first * rows->step) * d->pitch + AHEAD_BYTES,
                      rows->step * d->pitch};
}

/* ---- forward and input gradient ---------------------------------------------------------------------------------- */

typedef struct job {
    const fc_conv_plan *plan;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *workspace;
    double *totals; /* [split][filter][SUMS] */
    ptrdiff_t task_planes;
} job;

static void run_task(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const bool back = j->plan->problem.pass == FC_BACKWARD_INPUT;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), groups = j->plan->problem.groups,
                    places = h->rows->places * h->columns->places * element, taps = h->rows->taps * h->columns->taps;
    const ptrdiff_t part = index % h->parts, block = index / h->parts;
    const ptrdiff_t row = part * h->part_rows, rows = fc_min(h->part_rows, h->rows->places - row);
    const ptrdiff_t first = block * j->task_planes, last = fc_min(first + j->task_planes, h->planes);
    const desk d = desk_of(j->plan, h, j->in, j->workspace + (size_t)worker * h->worker);
    fc_depthwise task = job_of(j->plan, &d, rows);
    _Alignas(double) char turned[25 * sizeof(double)]; /* or floats */
    ptrdiff_t filter = first % groups * h->outputs;
    char *out = j->out + first * h->outputs * places + row * h->columns->places * element;
    for (ptrdiff_t plane = first; plane < last; plane++) {
        list_lines(&d, plane, row, rows);
        task.ahead[0] = ahead_of(&d, plane, row);
        for (ptrdiff_t o = 0; o < h->outputs; o++, filter++, out += places) {
            task.out = out;
            /* what is written beyond a row's end is written over later, by this task */
            task.out_end =
                h->parts == 1 ? j->out + last * h->outputs * places : out + rows * h->columns->places * element;
            task.weight = j->weight + filter * taps * element;
            if (back) {
                kernels->gather((const char *)task.weight + (taps - 1) * element, -1, turned, taps);
                task.weight = turned;
            }
            task.bias = j->bias ? j->bias + filter * element : NULL;
            kernels->depthwise_lines[h->columns->taps == 5][h->columns->step - 1](&task);
            task.ahead[0].at = NULL;
        }
        filter = filter == groups * h->outputs ? 0 : filter;
    }
}

/* ---- weight gradient --------------------------------------------------------------------------------------------- */

static void run_gradient(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_kernels *kernels = j->plan->kernels;
    const fc_conv_problem *problem = &j->plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(problem->dtype), columns = h->columns->places,
                    places = h->rows->places * columns, all = h->planes * h->outputs * places;
    const ptrdiff_t block = index % h->blocks, split = index / h->blocks, units = h->parts * h->images;
    const ptrdiff_t first = block * h->task_planes, last = fc_min(first + h->task_planes, problem->groups);
    const ptrdiff_t unit0 = split * units / h->splits, unit1 = (split + 1) * units / h->splits;
    const ptrdiff_t vectors = (last - first) * h->outputs * SUMS;
    const desk d = desk_of(j->plan, h, j->in, j->workspace + (size_t)worker * h->worker);
    double *totals = j->totals + (split * problem->out_channels + first * h->outputs) * SUMS;
    ptrdiff_t pending = 0;
    memset(totals, 0, (size_t)vectors * sizeof *totals);
    memset(d.sums, 0, (size_t)(vectors * kernels->lanes * element));
    for (ptrdiff_t unit = unit0; unit < unit1; unit++) {
        const ptrdiff_t n = unit / h->parts, row = unit % h->parts * h->part_rows,
                        rows = fc_min(h->part_rows, h->rows->places - row);
        fc_depthwise task = job_of(j->plan, &d, rows);
        task.sums = d.sums;
        for (ptrdiff_t g = first; g < last; g++) {
            const ptrdiff_t plane = n * problem->groups + g;
            list_lines(&d, plane, row, rows);
            task.ahead[0] = ahead_of(&d, plane, row);
            for (ptrdiff_t o = 0; o < h->outputs; o++) {
                const ptrdiff_t at = (plane * h->outputs + o) * places + row * columns;
                const char *dy = j->out + at * element;
                task.out = (void *)dy;
                task.out_pitch = columns;
                task.ahead[1] = (fc_ahead){dy + AHEAD_BYTES, columns * element};
                if (all - at < (rows - 1) * columns + kernels->lanes) { /* no vector may read past the end of dy */
                    for (ptrdiff_t r = 0; r < rows; r++)
                        kernels->copy(dy + r * columns * element, d.temp + r * kernels->lanes * element, columns);
                    task.out = d.temp;
                    task.out_pitch = kernels->lanes;
                }
                kernels->depthwise_lines_sum[h->columns->step - 1](&task);
                task.sums = (char *)task.sums + SUMS * kernels->lanes * element;
                task.ahead[0].at = NULL;
            }
        }
        pending += rows * fc_ceil_div(columns, kernels->lanes);
        if (pending >= PATIENCE || unit == unit1 - 1) {
            kernels->fold(d.sums, vectors, totals);
            pending = 0;
        }
    }
}

/* ---- the driver -------------------------------------------------------------------------------------------------- */

size_t fc_depthwise_lines_workspace(const fc_conv_plan *plan, int threads)
{
    const fc_sweep s = sweep_of(plan);
    const shape h = shape_of(plan, &s);
    return h.worker * (size_t)threads + h.shared + FC_ALIGNMENT;
}

void fc_depthwise_lines_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, void *workspace, int threads)
{
    const fc_sweep s = sweep_of(plan);
    const shape h = shape_of(plan, &s);
    const bool back = plan->problem.pass == FC_BACKWARD_INPUT;
    char *space = workspace;
    job j = {.plan = plan,
             .shape = &h,
             .in = back ? arrays->y : arrays->x,
             .out = back ? arrays->x : arrays->y,
             .weight = arrays->weight,
             .bias = back ? NULL : arrays->bias};
    j.totals = fc_take(&space, (ptrdiff_t)h.shared);
    j.workspace = space;
    if (plan->problem.pass == FC_BACKWARD_WEIGHT) {
        fc_parallel(threads, h.blocks * h.splits, run_gradient, &j);
        fc_depthwise_add(plan, j.totals, h.splits, SUMS, 0, arrays->weight, arrays->bias, threads);
        return;
    }
    /* how many planes a task has does not change a bit of the result */
    j.task_planes = fc_max(PART_ELEMENTS / (h.rows->places * h.columns->places * h.outputs), 1);
    if (threads > 1)
        j.task_planes = fc_min(j.task_planes, fc_max(h.planes * h.parts / (4 * threads), 1));
    fc_parallel(threads, fc_ceil_div(h.planes, j.task_planes) * h.parts, run_task, &j);
}
