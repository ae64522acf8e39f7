/* winograd_lines.c -- Winograd down, plain sums across: few channels or few filters, channels first.
 *
 * Lanes are neighbouring columns, so nothing is transposed, and any number of channels and filters will do; where tiles have vectors of
 * either, few would leave most lanes empty. A strip is one segment of rows, or, of wide planes, some of its columns:
 *
 * v, a strip's transformed input:  [channel][point][column], with the padding's zeros at either end
 * u, transformed filters:          [group of filters][part of the channels][point][channel][tap across][filter]
 *
 * u is computed first; every strip then makes its own v, which stays in the first-level cache while all filters pass. Many channels come
 * in parts, one after another; the sums of the few filters stay there, too.
 *
 * The weight gradient sums products of v and of d, dy's transformed rows, over all columns and strips:
 *
 * d, a strip's, of some filters:   [point][filter][column]
 * sums, of those filters:          [point][channel][tap across][filter], vectors whose lanes are added up in the end
 *
 * A round makes the v of many strips; the sums of some filters then stay in the first-level cache while the strips pass. */
#include "winograd.h"

#include <math.h>

enum {
    LINE_BYTES = 16 << 10, /* of v, about: the sums of a block want to lie beside it */
    LEAST_VECTORS = 8,     /* of columns in a strip, however many channels there are */
    FEW = 8, /* channels or filters; with more, what tiles save across is worth more than their transposition */
    PART_BYTES = 64 << 10, /* of v of a part of the channels, about */
    LEAST_PART = 4,        /* channels */
    MOST_VECTORS = 16,     /* of columns in a strip, where channels come in parts */
    TASKS_EACH = 4,        /* of a thread, at least, where filters must be cut for it: each task makes v again */
    /* of the weight gradient */
    ROUND_BYTES = 1 << 20, /* of v */
    SUM_VECTORS = 20,      /* of columns, about, that its sums are loaded and stored for */
    SUM_DEPTH = 9,         /* elements of the sum at once */
    MOST_FILTERS = 3,      /* of a group */
    SUM_TASKS = 8, /* of a round, about: however many threads there are, for the order of the sums to be the same */
};

/* The problem, as a convolution of what is read. */
typedef struct view {
    ptrdiff_t channels, filters, across; /* taps */
    ptrdiff_t read[2], written[2];       /* down, across; of a weight gradient, dy's are the latter */
    ptrdiff_t before[2];                 /* padding; less than none where an input gradient leaves dy's edge out */
} view;

typedef struct shape {
    view view;
    axis rows;
    ptrdiff_t points;                  /* of the largest segment */
    ptrdiff_t part, parts;             /* channels of a part */
    ptrdiff_t depth;                   /* channels of a part and taps across */
    ptrdiff_t vectors, chunks;         /* whole vectors of columns; strips side by side */
    ptrdiff_t columns;                 /* of v: those that a strip reads, at most */
    ptrdiff_t lead;                    /* elements of v before them: column 0 of the image is aligned */
    ptrdiff_t pitch;                   /* elements from point to point */
    ptrdiff_t groups, filters, strips; /* filters of a group */
    ptrdiff_t of_group;                /* bytes of a group's sums in a strip */
    /* of the weight gradient: strips done together; strips of a round; parts these are cut into */
    ptrdiff_t together, round, splits;
    ptrdiff_t of_strip, sums, worker, shared; /* bytes of its v; of a group's sums in a split; of a worker; of all */
} shape;

typedef struct job {
    const fc_conv_plan *plan;
    const shape *shape;
    const char *in, *weight, *bias;
    char *out, *workspace, *u;
    const ptrdiff_t *offsets; /* of v, of each element of the sum */
    ptrdiff_t blocks;         /* of groups: tasks of a strip */
    bool streamed;            /* the output goes past the caches */
    /* of the weight gradient */
    const char *dy;
    char *dweight, *v, *sums;
    ptrdiff_t first, strips; /* of the round */
} job;

/* ---- planning --------------------------------------------------------------------------------------------- */

/* Estimated cycles, as algo_winograd.c counts them: of vectors of sums and of points of the output (or of dy) and the input. The sums of
 * every point are stored once and loaded once, or more often where channels come in parts; a single filter takes as long as two, since it
 * uses once what it loads; few sums at once wait for one another. */
static double forward_cycles(double filters, double depth, double vectors, double channels)
{
    const double of_load = fmax(filters, 2), at_once = fmin(of_load, 4) * fmin(vectors, 4),
                 parts = channels > FEW ? 1.45 : 1;
    return parts *
           (vectors * (depth * of_load * 0.55 * fmax(8 / at_once, 1) + filters * 3 + channels * 3) + channels * 8);
}

/* The sums are loaded and stored once in some vectors of columns, and where there are many, do not stay in the first-level cache. */
static double gradient_cycles(double filters, double depth, double vectors, double channels)
{
    const double at_once = fmax(floor(SUM_VECTORS / vectors), 1) * vectors, blocks = ceil(depth / SUM_DEPTH);
    return vectors * (depth * filters * (0.8 + 0.15 * blocks + 1.25 / at_once) + filters * 4.5 + channels * 5);
}

static view view_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const bool back = p->pass == FC_BACKWARD_INPUT;
    view v = {.channels = back ? p->out_channels : p->in_channels,
              .filters = back ? p->in_channels : p->out_channels,
              .across = p->kernel[2]};
    for (int a = 0; a < 2; a++) {
        v.read[a] = (back ? plan->output : p->input)[a + 1];
        v.written[a] = (back ? p->input : plan->output)[a + 1];
        v.before[a] = back ? p->kernel[a + 1] - 1 - p->pad_before[a + 1] : p->pad_before[a + 1];
    }
    return v;
}

static double cycles_of(const fc_conv_plan *plan, const view *w, const axis *rows)
{
    const bool gradient = plan->problem.pass == FC_BACKWARD_WEIGHT;
    const double vectors = ceil((double)w->written[1] / (double)plan->kernels->lanes), channels = (double)w->channels,
                 filters = (double)w->filters, depth = channels * (double)w->across;
    const double of_point = (gradient ? gradient_cycles : forward_cycles)(filters, depth, vectors, channels);
    const double points = (double)points_of(rows);
    return (gradient ? 40000 : 12000) + (double)plan->problem.batch * points * of_point +
           filters * depth * SIDE * (gradient ? 10 : 1);
}

/* The segments that cost least. */
static double choose(const fc_conv_plan *plan, const view *w, axis *chosen)
{
    axis candidates[AXES];
    const int count = list_axes(w->written[0], (int)plan->problem.kernel[1], candidates);
    double least = INFINITY;
    for (int i = 0; i < count; i++) {
        const double cycles = cycles_of(plan, w, &candidates[i]);
        if (cycles < least) {
            least = cycles;
            *chosen = candidates[i];
        }
    }
    return least;
}

/* Elements from one point of dy to the next: an odd number of cache lines. */
static ptrdiff_t spread_pitch(ptrdiff_t elements, ptrdiff_t element)
{
    const ptrdiff_t line = FC_ALIGNMENT / element;
    return (fc_ceil_div(elements, line) | 1) * line;
}

static shape shape_of(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    const view w = view_of(plan);
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(p->dtype), lanes = plan->kernels->lanes,
                    line = FC_ALIGNMENT / element;
    shape h = {.view = w, .vectors = w.written[1] / lanes, .part = w.channels};
    choose(plan, &w, &h.rows);
    h.points = h.rows.points;
    const ptrdiff_t most =
        w.channels > FEW ? MOST_VECTORS : fc_max(LINE_BYTES / (w.channels * SIDE * element * lanes), LEAST_VECTORS);
    h.chunks = fc_ceil_div(h.vectors, most);
    /* the last has what does not fill a vector, too */
    h.columns = (fc_ceil_div(h.vectors, h.chunks) + 1) * lanes + w.across - 1;
    h.lead = (lanes - w.before[1] % lanes) % lanes;
    /* a vector more than is read may be written; an odd number of cache lines, so that points do not share sets */
    h.pitch = (fc_ceil_div(h.lead + h.columns + lanes, line) | 1) * line;
    if (w.channels > FEW)
        h.part = fc_min(fc_max(PART_BYTES / (SIDE * h.pitch * element), LEAST_PART), w.channels);
    h.parts = fc_ceil_div(w.channels, h.part);
    h.depth = h.part * w.across;
    h.strips = p->batch * h.rows.segments * h.chunks;
    h.of_strip = fc_round_up(h.part * SIDE * h.pitch * element, FC_ALIGNMENT);
    h.worker = fc_round_up(h.columns * element, FC_ALIGNMENT);
    h.shared = fc_round_up(h.depth * (ptrdiff_t)sizeof(ptrdiff_t), FC_ALIGNMENT);
    if (p->pass != FC_BACKWARD_WEIGHT) {
        h.groups = fc_ceil_div(w.filters, plan->kernels->line_filters);
        h.filters = fc_ceil_div(w.filters, h.groups);
        h.of_group = SIDE * h.filters * (h.columns / lanes) * lanes * element;
        h.worker += h.of_strip + (h.parts > 1 ? h.groups : 1) * h.of_group;
        h.shared += fc_round_up(w.filters * w.channels * w.across * h.points * element, FC_ALIGNMENT);
        return h;
    }
    h.filters = plan->kernels->line_sum_filters;
    h.groups = fc_ceil_div(w.filters, h.filters);
    h.splits = fc_min(fc_ceil_div(SUM_TASKS, h.groups), h.strips);
    h.sums = SIDE * h.depth * h.filters * lanes * element;
    h.round = fc_min(fc_max(ROUND_BYTES / h.of_strip, 1), h.strips);
    h.round = fc_ceil_div(h.strips, fc_ceil_div(h.strips, h.round));
    h.together = fc_max(SUM_VECTORS / fc_ceil_div(fc_ceil_div(w.written[1], lanes), h.chunks), 1);
    h.worker += fc_round_up(SIDE * spread_pitch(h.together * h.filters * h.columns, element) * element, FC_ALIGNMENT);
    h.shared += h.round * h.of_strip + h.groups * h.splits * h.sums;
    return h;
}

/* ---- strips ------------------------------------------------------------------------------------------------ */

typedef struct strip {
    ptrdiff_t image, row, first, columns; /* of the output */
    int points;
} strip;

static strip strip_at(const job *j, ptrdiff_t index)
{
    const shape *h = j->shape;
    const ptrdiff_t lanes = j->plan->kernels->lanes, chunk = index % h->chunks, segment = index / h->chunks,
                    of_image = segment % h->rows.segments;
    strip s = {.image = segment / h->rows.segments,
               .row = segment_start(&h->rows, of_image),
               .first = chunk * h->vectors / h->chunks * lanes,
               .points = segment_points(&h->rows, of_image)};
    s.columns = (chunk + 1 == h->chunks ? h->view.written[1] : (chunk + 1) * h->vectors / h->chunks * lanes) - s.first;
    return s;
}

/* The points of what a strip reads of some channels. */
static void transform_rows(const job *j, const strip *s, ptrdiff_t first, ptrdiff_t channels, char *v, char *zeros)
{
    const shape *h = j->shape;
    const view *w = &h->view;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), height = w->read[0], width = w->read[1],
                    row = s->row - w->before[0], start = s->first - w->before[1],
                    reach = fc_round_up(s->columns, j->plan->kernels->lanes) + w->across - 1,
                    low = fc_min(fc_max(-start, 0), reach), count = fc_max(fc_min(width - start, reach) - low, 0);
    memset(zeros, 0, (size_t)(h->columns * element));
    for (ptrdiff_t c = 0; c < channels; c++) {
        const char *plane = j->in + (s->image * w->channels + first + c) * height * width * element;
        const void *rows[SIDE];
        for (int r = 0; r < s->points; r++)
            rows[r] =
                row + r >= 0 && row + r < height && count ? plane + ((row + r) * width + start + low) * element : zeros;
        j->plan->kernels->winograd_lines_input(rows, h->lead + low, count, reach - low - count, h->rows.taps, s->points,
                                               v + c * SIDE * h->pitch * element, h->pitch);
    }
}

/* Filters of a group. */
static ptrdiff_t filters_of(const job *j, ptrdiff_t group)
{
    return fc_min(j->shape->filters, j->shape->view.filters - group * j->shape->filters);
}

/* ---- forward, and the input gradient ------------------------------------------------------------------------ */

/* Channels of a part. */
static ptrdiff_t channels_of(const job *j, ptrdiff_t part)
{
    return fc_min(j->shape->part, j->shape->view.channels - part * j->shape->part);
}

/* Where a group's filters begin in u, of a part of the channels; those before are whole, in either. */
static char *filters_at(const job *j, ptrdiff_t group, ptrdiff_t part)
{
    const shape *h = j->shape;
    const view *w = &h->view;
    return j->u + (group * h->filters * w->channels + part * h->part * filters_of(j, group)) * w->across * h->points *
                      (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
}

static void transform_filters(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    const ptrdiff_t part = index % h->parts, group = index / h->parts, kernel = p->kernel[1] * p->kernel[2];
    fc_winograd_lines_filter f = {.filter_step = h->view.channels * kernel,
                                  .channel_step = kernel,
                                  .row_step = h->view.across,
                                  .column_step = 1,
                                  .filters = filters_of(j, group),
                                  .channels = channels_of(j, part),
                                  .across = h->view.across,
                                  .taps = h->rows.taps,
                                  .points = h->rows.points,
                                  .to = filters_at(j, group, part)};
    ptrdiff_t first = 0;
    if (p->pass == FC_BACKWARD_INPUT) { /* kernels are turned: from the last tap to the first */
        f.filter_step = kernel;
        f.channel_step = h->view.filters * kernel;
        f.row_step = -h->view.across;
        f.column_step = -1;
        first = kernel - 1;
    }
    f.from = j->weight + (first + group * h->filters * f.filter_step + part * h->part * f.channel_step) *
                             (ptrdiff_t)fc_size_of(p->dtype);
    j->plan->kernels->winograd_lines_filter(&f);
    (void)worker;
}

static void run_strip(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const view *w = &h->view;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), width = w->written[1],
                    plane = w->written[0] * width, block = index % j->blocks;
    const strip s = strip_at(j, index / j->blocks);
    char *at = j->workspace + worker * h->worker;
    char *v = fc_take(&at, h->of_strip), *zeros = fc_take(&at, h->columns * element), *sums = fc_take(&at, 0);
    fc_winograd_lines l = {.taps = h->rows.taps,
                           .points = s.points,
                           .v = v,
                           .pitch = h->pitch,
                           .offsets = j->offsets,
                           .plane = plane,
                           .width = width,
                           .rows = fc_min(outputs_of(h->rows.taps, s.points), w->written[0] - s.row),
                           .columns = s.columns,
                           .relu = j->plan->problem.relu,
                           .streamed = j->streamed};
    for (ptrdiff_t part = 0; part < h->parts; part++) {
        const ptrdiff_t channels = channels_of(j, part);
        transform_rows(j, &s, part * h->part, channels, v, zeros);
        l.depth = channels * w->across;
        l.continued = part > 0;
        l.unfinished = part + 1 < h->parts;
        for (ptrdiff_t g = block * h->groups / j->blocks; g < (block + 1) * h->groups / j->blocks; g++) {
            const ptrdiff_t filter = g * h->filters;
            l.u = filters_at(j, g, part);
            l.bias = j->bias ? j->bias + filter * element : NULL;
            l.filters = filters_of(j, g);
            l.to = j->out + ((s.image * w->filters + filter) * plane + s.row * width + s.first) * element;
            l.sums = sums + (h->parts > 1 ? g * h->of_group : 0);
            j->plan->kernels->winograd_lines(&l);
        }
    }
    if (j->streamed)
        j->plan->kernels->fence();
}

/* ---- the weight gradient ----------------------------------------------------------------------------------- */

static void transform_strip(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const strip s = strip_at(j, j->first + index);
    transform_rows(j, &s, 0, j->shape->view.channels, j->v + index * j->shape->of_strip,
                   j->workspace + worker * j->shape->worker);
}

/* What a strip's filters read of dy. */
static const char *dy_at(const job *j, const strip *s, ptrdiff_t filter)
{
    const fc_conv_problem *p = &j->plan->problem;
    const ptrdiff_t height = j->plan->output[1], width = j->plan->output[2];
    return j->dy + (((s->image * p->out_channels + filter) * height + s->row) * width + s->first) *
                       (ptrdiff_t)fc_size_of(p->dtype);
}

/* While strips are multiplied, as much of dy as they have is fetched from the segments below, in the order of memory. */
static void look_ahead(const job *j, ptrdiff_t index, ptrdiff_t count, ptrdiff_t group, int points, fc_ahead *ahead)
{
    const shape *h = j->shape;
    const ptrdiff_t chunk = count < h->chunks ? index % h->chunks : 0,
                    next = count < h->chunks ? index - chunk + h->chunks : index + count;
    memset(ahead, 0, sizeof *ahead * (size_t)filters_of(j, group));
    if (next >= h->strips)
        return;
    const strip s = strip_at(j, next);
    const ptrdiff_t rows = fc_min(fc_ceil_div(count, h->chunks) * outputs_of(h->rows.taps, s.points),
                                  h->rows.length - s.row),
                    bytes = rows * j->plan->output[2] * (ptrdiff_t)fc_size_of(j->plan->problem.dtype);
    for (ptrdiff_t i = 0; i < filters_of(j, group); i++)
        ahead[i] = (fc_ahead){dy_at(j, &s, group * h->filters + i) + chunk * bytes / h->chunks,
                              fc_min(count, h->chunks) * bytes / h->chunks / points};
}

/* The points of dy of a strip, of a group's filters. */
static void transform_dy(const job *j, const strip *s, ptrdiff_t group, const char *zeros, char *d, ptrdiff_t columns,
                         ptrdiff_t pitch)
{
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), width = j->plan->output[2] * element;
    for (ptrdiff_t i = 0; i < filters_of(j, group); i++) {
        const void *rows[SIDE];
        const char *from = dy_at(j, s, group * h->filters + i);
        for (int r = 0; r < outputs_of(h->rows.taps, s->points); r++)
            rows[r] = s->row + r < h->rows.length ? from + r * width : zeros;
        j->plan->kernels->winograd_lines_spread(rows, s->columns, h->rows.taps, s->points, d + i * columns * element,
                                                pitch);
    }
}

/* Adds the strips of a round, or of a split of it, to the sums of a group. */
static void run_sums(void *context, ptrdiff_t index, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const ptrdiff_t element = (ptrdiff_t)fc_size_of(j->plan->problem.dtype), group = index % h->groups,
                    split = index / h->groups, filters = filters_of(j, group),
                    last = (split + 1) * j->strips / h->splits;
    char *at = j->workspace + worker * h->worker;
    char *zeros = fc_take(&at, h->columns * element), *d = fc_take(&at, 0);
    fc_ahead ahead[MOST_FILTERS];
    fc_winograd_lines_sum l = {.pitch = h->pitch,
                               .step = h->of_strip / element,
                               .offsets = j->offsets,
                               .depth = h->depth,
                               .dy = d,
                               .dy_pitch = spread_pitch(h->together * filters * h->columns, element),
                               .filters = filters,
                               .sums = j->sums + index * h->sums,
                               .ahead = ahead};
    memset(zeros, 0, (size_t)(h->columns * element));
    if (j->first == 0)
        memset(l.sums, 0, (size_t)h->sums);
    for (ptrdiff_t n = split * j->strips / h->splits; n < last; n += l.segments) {
        ptrdiff_t columns[SUM_VECTORS];
        char *to = d;
        l.v = j->v + n * h->of_strip;
        for (l.segments = 0; l.segments < fc_min(h->together, last - n); l.segments++) {
            const strip s = strip_at(j, j->first + n + l.segments);
            if (l.segments > 0 && s.points != l.points)
                break;
            l.points = s.points;
            columns[l.segments] = fc_round_up(s.columns, j->plan->kernels->lanes);
            transform_dy(j, &s, group, zeros, to, columns[l.segments], l.dy_pitch);
            to += filters * columns[l.segments] * element;
        }
        l.columns = columns;
        look_ahead(j, j->first + n, l.segments, group, l.points, ahead);
        j->plan->kernels->winograd_lines_sum(&l);
    }
}

/* Adds up a group's splits, in order, and then lanes. */
static void put_weights(void *context, ptrdiff_t group, int worker)
{
    const job *j = context;
    const shape *h = j->shape;
    const fc_conv_problem *p = &j->plan->problem;
    char *sums = j->sums + group * h->sums;
    for (ptrdiff_t split = 1; split < h->splits; split++)
        j->plan->kernels->add(sums + split * h->groups * h->sums, sums, h->sums / (ptrdiff_t)fc_size_of(p->dtype));
    j->plan->kernels->winograd_lines_taps(sums, filters_of(j, group), p->in_channels, h->rows.taps, p->kernel[2],
                                          h->rows.points,
                                          j->dweight + group * h->filters * h->view.channels * p->kernel[1] *
                                                           p->kernel[2] * (ptrdiff_t)fc_size_of(p->dtype));
    (void)worker;
}

static void run_weights(job *j, int threads)
{
    const shape *h = j->shape;
    for (j->first = 0; j->first < h->strips; j->first += h->round) {
        j->strips = fc_min(h->round, h->strips - j->first);
        fc_parallel(threads, j->strips, transform_strip, j);
        fc_parallel(threads, h->groups * h->splits, run_sums, j);
    }
    fc_parallel(threads, h->groups, put_weights, j);
}

/* ---- what algo_winograd.c asks ------------------------------------------------------------------------------ */

bool fc_winograd_lines_fit(const fc_conv_plan *plan)
{
    const fc_conv_problem *p = &plan->problem;
    if (p->layout != FC_CHANNELS_FIRST || p->groups != 1)
        return false;
    if (p->kernel[0] != 1 || p->input[0] != 1 || plan->output[0] != 1 || p->pad_before[0] != 0)
        return false;
    for (int a = 1; a < 3; a++)
        if (p->stride[a] != 1 || p->dilation[a] != 1)
            return false;
    const ptrdiff_t taps = p->kernel[1];
    if (taps < 2 || taps > FC_WINOGRAD_TAPS || taps == 6 || p->kernel[2] > FC_WINOGRAD_TAPS)
        return false;
    const view w = view_of(plan);
    const ptrdiff_t few = p->pass == FC_BACKWARD_WEIGHT ? w.channels : fc_min(w.channels, w.filters);
    if (w.written[1] < plan->kernels->lanes || few > FEW)
        return false;
    const shape h = shape_of(plan);
    return h.worker <= (ptrdiff_t)(plan->limit / 2) && h.shared <= (ptrdiff_t)(plan->limit / 2);
}

double fc_winograd_lines_cost(const fc_conv_plan *plan)
{
    const view w = view_of(plan);
    axis chosen;
    return choose(plan, &w, &chosen) / FC_NOMINAL_HERTZ;
}

size_t fc_winograd_lines_workspace(const fc_conv_plan *plan, int threads)
{
    const shape h = shape_of(plan);
    return (size_t)(h.worker * threads + h.shared);
}

void fc_winograd_lines_run(const fc_conv_plan *plan, const fc_conv_arrays *arrays, char *space, int threads)
{
    const bool back = plan->problem.pass == FC_BACKWARD_INPUT;
    const shape h = shape_of(plan);
    char *shared = space + threads * h.worker;
    ptrdiff_t *offsets = fc_take(&shared, h.depth * (ptrdiff_t)sizeof(ptrdiff_t));
    for (ptrdiff_t k = 0; k < h.depth; k++)
        offsets[k] = h.lead + k / h.view.across * SIDE * h.pitch + k % h.view.across;
    job j = {.plan = plan,
             .shape = &h,
             .in = back ? arrays->y : arrays->x,
             .workspace = space,
             .offsets = offsets,
             .blocks = 1};
    if (plan->problem.pass == FC_BACKWARD_WEIGHT) {
        j.dy = arrays->y;
        j.dweight = arrays->weight;
        j.v = shared;
        j.sums = shared + h.round * h.of_strip;
        run_weights(&j, threads);
        return;
    }
    j.weight = arrays->weight;
    j.bias = back ? NULL : arrays->bias;
    j.out = back ? arrays->x : arrays->y;
    j.streamed = plan->problem.batch * h.view.filters * h.view.written[0] * h.view.written[1] >=
                 FC_STREAMED / (ptrdiff_t)fc_size_of(plan->problem.dtype);
    j.u = shared;
    /* as many tasks for every thread, or several: the strips are nearly alike */
    while (j.blocks < h.groups && h.strips * j.blocks % threads && h.strips * j.blocks < TASKS_EACH * threads)
        j.blocks++;
    fc_parallel(threads, h.groups * h.parts, transform_filters, &j);
    fc_parallel(threads, h.strips * j.blocks, run_strip, &j);
}
