/* winograd_lines.c -- Winograd down, plain sums across: forward convolution of few channels, channels first.
 *
 * Lanes are neighbouring columns, so nothing is transposed, and any number of channels will do; where tiles have vectors of channels, few
 * would leave most lanes empty. A strip is one segment of rows, or, of wide planes, some of its columns:
 *
 * v, a strip's transformed input:  [channel][point][column], with the padding's zeros at either end
 * u, transformed filters:          [group of filters][point][channel][tap across][filter]
 *
 * u is computed first; every strip then makes its own v, which stays in the first-level cache while all filters pass. */
#include "winograd.h"

#include <math.h>

enum {
    LINE_BYTES = 16 << 10, /* of v, about: the sums of a block want to lie beside it */
    LEAST_VECTORS = 8,     /* of columns in a strip, however many channels there are */
    MOST_CHANNELS = 8,     /* with more, what tiles save across is worth more than their transposition */
    TASKS_EACH = 4,        /* of a thread, at least, where filters must be cut for it: each task makes v again */
};

typedef struct shape {
    axis rows;
    ptrdiff_t points;          /* of the largest segment */
    ptrdiff_t depth;           /* channels and taps across */
    ptrdiff_t vectors, chunks; /* whole vectors of columns; strips side by side */
    ptrdiff_t columns;         /* of v: those that a strip reads, at most */
    ptrdiff_t lead;            /* elements of v before them: column 0 of the image is aligned */
    ptrdiff_t pitch;           /* elements from point to point */
    ptrdiff_t groups, strips;
    size_t worker, shared; /* bytes */
} shape;

typedef struct job {
    const fc_conv_plan *plan;
    const shape *shape;
    const char *x, *weight, *bias;
    char *y, *workspace, *u;
    const ptrdiff_t *offsets; /* of v, of each element of the sum */
    ptrdiff_t blocks;         /* of groups: tasks of a strip */
} job;

/* ---- planning --------------------------------------------------------------------------------------------- */

/* Estimated cycles, as algo_winograd.c counts them. The sums of every point are stored once and loaded once; a single filter takes as long as
 * two, since it uses once what it loads. */
static double cycles_of(const fc_conv_plan *plan, const axis *rows)
{
    const fc_conv_problem *p = &plan->problem;
    const double vectors = ceil((double)plan->output[2] / (double)plan->kernels->lanes),
                 channels = (double)p->in_channels, filters = (double)p->out_channels,
                 depth = channels * (double)p->kernel[2];
    double strips = 0;
    for (int pairs = 1; pairs <= CLASSES; pairs++) {
        const double points = 2 * pairs + 2;
        const double product = depth * points * fmax(filters, 2) / 2 * 1.1, output = filters * points * 3,
                     input = channels * points * 3;
        strips += (double)rows->count[pairs - 1] * vectors * (product + output + input);
    }
    return 12000 + (double)p->batch * strips + filters * depth * SIDE;
}

/* The segments that cost least. */
static double choose(const fc_conv_plan *plan, axis *chosen)
{
    axis candidates[AXES];
    const int count = list_axes(plan->output[1], (int)plan->problem.kernel[1], candidates);
    double least = INFINITY;
    for (int i = 0; i < count; i++) {
        const double cycles = cycles_of(plan, &candidates[i]);
        if (cycles < least) {
            least = cycles;
            *chosen = candidates[i];
        }
    }
    return least;
}

static shape shape_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = plan->kernels->lanes,
                    line = FC_ALIGNMENT / element, across = p->kernel[2];
    shape h = {.depth = p->in_channels * across, .vectors = plan->output[2] / lanes};
    choose(plan, &h.rows);
    h.points = 2 * h.rows.pairs + 2;
    const ptrdiff_t most = fc_max(LINE_BYTES / (p->in_channels * SIDE * element * lanes), LEAST_VECTORS);
    h.chunks = fc_ceil_div(h.vectors, most);
    /* the last has what does not fill a vector, too */
    h.columns = (fc_ceil_div(h.vectors, h.chunks) + 1) * lanes + across - 1;
    h.lead = (lanes - p->pad_before[2] % lanes) % lanes;
    /* a vector more than is read may be written; an odd number of cache lines, so that points do not share sets */
    h.pitch = (fc_ceil_div(h.lead + h.columns + lanes, line) | 1) * line;
    h.groups = fc_ceil_div(p->out_channels, plan->kernels->line_filters);
    h.strips = p->batch * h.rows.segments * h.chunks;
    h.worker = (size_t)(fc_round_up(p->in_channels * SIDE * h.pitch * element, FC_ALIGNMENT) +
                        fc_round_up(h.columns * element, FC_ALIGNMENT));
    h.shared = (size_t)(fc_round_up(h.depth * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGNMENT) +
                        fc_round_up(p->out_channels * h.depth * h.points * element, FC_ALIGNMENT));
    return h;
}

/* ---- tasks ------------------------------------------------------------------------------------------------ */

/* Filters of a group. */
static ptrdiff_t filters_of(const job *j, ptrdiff_t group)
{
    const ptrdiff_t most = j->plan->kernels->line_filters;
    return fc_min(most, j->plan->problem.out_channels - group * most);
}

/* Where a group's filters begin in u, those before being whole. */
static char *group_at(const job *j, ptrdiff_t group)
{
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    return j->u + group * j->plan->kernels->line_filters * j->shape->depth * j->shape->points * element;
}

static void transform_filters(void *context, ptrdiff_t group, int worker)
{
    const job *j = context;
    const fc_conv_problem *p = &j->plan->problem;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype),
                    of_filter = p->in_channels * p->kernel[1] * p->kernel[2] * element;
    kernels->winograd_lines_filter(j->weight + group * kernels->line_filters * of_filter, filters_of(j, group),
                                   p->in_channels, (int)p->kernel[1], p->kernel[2], j->shape->rows.pairs,
                                   group_at(j, group));
    (void)worker;
}

/* Of the image's rows from `row` on, the points of a segment, for `columns` of the output from `first` on. */
static void transform_rows(const job *j, ptrdiff_t image, ptrdiff_t row, int pairs, ptrdiff_t first, ptrdiff_t columns,
                           char *v, char *zeros)
{
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), height = p->input[1], width = p->input[2],
                    start = first - p->pad_before[2], reach = columns + p->kernel[2] - 1,
                    low = fc_min(fc_max(-start, 0), reach), count = fc_max(fc_min(width - start, reach) - low, 0);
    bool padded = false;
    for (ptrdiff_t c = 0; c < p->in_channels; c++) {
        const char *plane = j->x + (image * p->in_channels + c) * height * width * element;
        const void *rows[SIDE];
        for (int r = 0; r < 2 * pairs + 2; r++) {
            const bool inside = row + r >= 0 && row + r < height && count;
            rows[r] = inside ? plane + ((row + r) * width + start + low) * element : zeros;
            padded = padded || !inside;
        }
        if (padded && c == 0)
            memset(zeros, 0, (size_t)(count * element));
        j->plan->kernels->winograd_lines_input(rows, h->lead + low, count, reach - low - count, (int)p->kernel[1],
                                               pairs, v + c * SIDE * h->pitch * element, h->pitch);
    }
}

static void run_strip(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const fc_kernels *kernels = j->plan->kernels;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = kernels->lanes, width = j->plan->output[2],
                    plane = j->plan->output[1] * width;
    const ptrdiff_t block = index % j->blocks, strip = index / j->blocks, chunk = strip % h->chunks,
                    segment = strip / h->chunks % h->rows.segments, image = strip / h->chunks / h->rows.segments;
    const ptrdiff_t first = chunk * h->vectors / h->chunks * lanes,
                    last = chunk + 1 == h->chunks ? width : (chunk + 1) * h->vectors / h->chunks * lanes,
                    row = segment_start(&h->rows, segment);
    const int pairs = segment_pairs(&h->rows, segment);
    char *at = j->workspace + (size_t)worker * h->worker;
    char *v = fc_take(&at, p->in_channels * SIDE * h->pitch * element), *zeros = fc_take(&at, h->columns * element);
    transform_rows(j, image, row - p->pad_before[1], pairs, first, last - first, v, zeros);
    fc_winograd_lines l = {.taps = (int)p->kernel[1],
                           .pairs = pairs,
                           .v = v,
                           .pitch = h->pitch,
                           .offsets = j->offsets,
                           .depth = h->depth,
                           .plane = plane,
                           .width = width,
                           .rows = fc_min(outputs_of((int)p->kernel[1], pairs), j->plan->output[1] - row),
                           .columns = last - first,
                           .relu = p->relu};
    for (ptrdiff_t g = block * h->groups / j->blocks; g < (block + 1) * h->groups / j->blocks; g++) {
        const ptrdiff_t filter = g * kernels->line_filters;
        l.u = group_at(j, g);
        l.bias = j->bias ? j->bias + filter * element : NULL;
        l.filters = filters_of(j, g);
        l.to = j->y + ((image * p->out_channels + filter) * plane + row * width + first) * element;
        kernels->winograd_lines(&l);
    }
}

/* ---- what algo_winograd.c asks ------------------------------------------------------------------------------ */

bool fc_winograd_lines_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->pass != FC_FORWARD || p->layout != FC_CHANNELS_FIRST || p->groups != 1)
        return false;
    if (p->kernel[0] != 1 || p->input[0] != 1 || plan->output[0] != 1 || p->pad_before[0] != 0)
        return false;
    for (int a = 1; a < 3; a++)
        if (p->stride[a] != 1 || p->dilation[a] != 1)
            return false;
    const ptrdiff_t taps = p->kernel[1];
    if (taps < 2 || taps > FC_WINOGRAD_TAPS || taps == 6 || p->kernel[2] > FC_WINOGRAD_TAPS)
        return false;
    if (plan->output[2] < plan->kernels->lanes || p->in_channels > MOST_CHANNELS)
        return false;
    const shape h = shape_of(plan);
    return h.worker <= plan->limit / 2 && h.shared <= plan->limit / 2;
}

double fc_winograd_lines_cost(const fc_conv_plan *plan)
{
    axis chosen;
    return choose(plan, &chosen) / FC_NOMINAL_HERTZ;
}

size_t fc_winograd_lines_workspace(const fc_conv_plan *plan, int threads)
{
    const shape h = shape_of(plan);
    return h.worker * (size_t)threads + h.shared;
}

void fc_winograd_lines_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    const fc_conv_problem *p = &plan->problem;
    const shape h = shape_of(plan);
    char *shared = space + (size_t)threads * h.worker;
    ptrdiff_t *offsets = fc_take(&shared, h.depth * (ptrdiff_t)sizeof(ptrdiff_t));
    for (ptrdiff_t k = 0; k < h.depth; k++)
        offsets[k] = h.lead + k / p->kernel[2] * SIDE * h.pitch + k % p->kernel[2];
    job j = {.plan = plan,
             .shape = &h,
             .x = arrays->x,
             .weight = arrays->weight,
             .bias = arrays->bias,
             .y = arrays->y,
             .workspace = space,
             .u = shared,
             .offsets = offsets,
             .blocks = 1};
    /* as many tasks for every thread, or several: the strips are nearly alike */
    while (j.blocks < h.groups && h.strips * j.blocks % threads && h.strips * j.blocks < TASKS_EACH * threads)
        j.blocks++;
    fc_parallel(threads, h.groups, transform_filters, &j);
    fc_parallel(threads, h.strips * j.blocks, run_strip, &j);
}
